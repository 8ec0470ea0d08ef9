"""How weights are drawn first: which parameters each rule draws, and from where."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnas_jax.baselines.nin import NinSettings
from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.errors import UserError
from bnas_jax.core.first_weights import FIRST_WEIGHTS, redrawn
from bnas_jax.core.schemes import Xnor
from bnas_jax.training.state import initial_variables

ONES = {
    "stem": {"conv": {"kernel": jnp.ones((3, 3, 3, 64)), "bias": jnp.ones(64)}},
    "bn": {"scale": jnp.ones(64), "bias": jnp.ones(64)},
    "unit0": {"latent": jnp.ones((3, 3, 64, 64)), "slope": jnp.ones(64)},
    "unit1": {"latent": jnp.ones((3, 3, 64, 64)), "bias": jnp.ones(64)},
    # Of NiN, where the bias stands behind all scales.
    "unit2": {
        "bn": {"scale": jnp.ones(64), "bias": jnp.ones(64)},
        "bias": jnp.ones(64),
        "conv": {"latent": jnp.ones((3, 3, 64, 64))},
    },
    "classifier": {"kernel": jnp.ones((64, 10)), "bias": jnp.ones(10)},
}


def drawn(name: str, seed: int = 0) -> dict:
    return redrawn(ONES, FIRST_WEIGHTS[name], jax.random.key(seed))


def kept(params: dict) -> set[str]:
    """The parameters that are still 1."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    same = [path for path, leaf in leaves if np.all(np.asarray(leaf) == 1)]
    return {"/".join(key.key for key in path) for path in same}


EVERY = kept(ONES)
LATENTS = {"unit0/latent", "unit1/latent", "unit2/conv/latent"}
KERNELS = {"stem/conv/kernel"} | LATENTS
BIASES = {"stem/conv/bias", "unit1/bias", "unit2/bias"}


def test_modules_draw_as_pytorch_does():
    assert kept(drawn("pytorch")) == EVERY


def test_bireal_draws_latent_weights_between_0_and_a_thousandth():
    params = drawn("bireal")
    assert EVERY - kept(params) == LATENTS
    latent = np.asarray(params["unit0"]["latent"])
    assert latent.min() >= 0 and latent.max() < 1e-3
    # Of an even distribution: half of its width, and its width / sqrt(12).
    assert latent.mean() == pytest.approx(5e-4, rel=0.02)
    assert latent.std() == pytest.approx(1e-3 / np.sqrt(12), rel=0.02)


def test_nin_draws_kernels_of_deviation_005_and_sets_their_biases_to_0():
    params = drawn("nin")
    assert EVERY - kept(params) == KERNELS | BIASES
    for kernel in (params["stem"]["conv"]["kernel"], params["unit0"]["latent"]):
        assert float(kernel.mean()) == pytest.approx(0, abs=5e-3)
        assert float(kernel.std()) == pytest.approx(0.05, rel=0.05)
    for unit in (params["stem"]["conv"], params["unit1"], params["unit2"]):
        assert not unit["bias"].any()


def test_in_nin_s_network_the_rule_draws_all_but_batch_norm():
    """The code that the rule is of does it for each of its convolutions."""
    settings = NinSettings(widths=(8, 8, 8))
    network = settings.build(num_classes=4, scheme=Xnor(), arithmetic=Arithmetic())
    shapes = jax.eval_shape(lambda: initial_variables(network, (8, 8, 3), seed=0))
    ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes["params"])
    params = redrawn(ones, FIRST_WEIGHTS["nin"], jax.random.key(0))
    assert {name.split("/")[-2] for name in kept(params)} == {"bn"}


def test_a_rule_that_is_none_is_refused_by_name():
    with pytest.raises(UserError, match="first_weights must be one of pytorch, nin, b"):
        initial_variables(None, (8, 8, 3), seed=0, first_weights="xavier")


@pytest.mark.parametrize("name", ["bireal", "nin"])
def test_each_kernel_has_numbers_of_its_own_which_the_key_decides(name):
    params = drawn(name)
    one, other = params["unit0"]["latent"], params["unit1"]["latent"]
    assert float(jnp.mean(one == other)) < 0.01
    assert np.array_equal(one, drawn(name)["unit0"]["latent"])
    assert not np.array_equal(one, drawn(name, seed=1)["unit0"]["latent"])
