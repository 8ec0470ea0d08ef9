"""Two steps of a published training loop: Adam with L2 on XNOR-Net's NiN, against the
numbers of its code.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import nhwc

from bnas_jax.baselines.nin import LEAST_SCALE
from bnas_jax.interop.published import load_published
from bnas_jax.training.optimizers import latent_adam
from bnas_jax.training.state import train_state_of
from bnas_jax.training.train_step import TrainStep

pytestmark = pytest.mark.usefixtures("quick_compilation")

NIN = "xnor_cifar_nin"


def test_adam_trains_nin_as_its_code_does(reference):
    """Losses before the first and the second step; parameters after the first
    (jiecaoyu: lr .01, weight decay 1e-5 on all).
    """
    arrays = dict(np.load(reference / "schemes" / f"{NIN}.npz"))
    model, variables = load_published(NIN, arrays)
    model = model.clone(dropout=0.0)
    optimizer = latent_adam(0.01, weight_decay=1e-5, scheme=model.scheme)
    step = jax.jit(TrainStep(model, optimizer))
    batch = {"image": nhwc(arrays["x"]), "label": jnp.asarray(arrays["y"], jnp.int32)}
    first = step(train_state_of(variables, optimizer, 1), batch)
    second = step(first, batch)
    size = len(arrays["y"])
    losses = [
        float(first.sums.loss) / size,
        float(second.sums.loss - first.sums.loss) / size,
    ]
    assert losses == pytest.approx(arrays["adam.losses"].tolist(), rel=1e-6)

    prefix = "adam.after1."
    after = {
        f"state.{name.removeprefix(prefix)}": value
        for name, value in arrays.items()
        if name.startswith(prefix)
    }
    _, theirs = load_published(NIN, {**arrays, **after})
    compared = 0
    for (path, ours), known in zip(
        flat(first.params), jax.tree.leaves(theirs["params"]), strict=True
    ):
        # A batch norm follows: its gradient is rounding alone, and the file leaves it
        # out.
        if path == ("stem", "bias"):
            continue
        # Clamped by the code before its next pass, here within it.
        if path[-1] == "scale":
            ours = jnp.maximum(ours, LEAST_SCALE)
        assert np.allclose(ours, known, atol=1e-4), path
        compared += 1
    assert compared == 31


def flat(tree) -> list[tuple[tuple[str, ...], jax.Array]]:
    """The leaves with their paths."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(tuple(key.key for key in path), leaf) for path, leaf in leaves]
