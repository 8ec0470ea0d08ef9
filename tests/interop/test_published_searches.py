"""Steps of searches against those of the published codes, on their supernets, with the noise that they drew.

Operation by operation, as compiling a supernet of DARTS's layer types takes longer than the step. Numbers were computed in
double precision; ours in float32 lie within 1e-4 of the largest entry.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from bnas_jax.interop import load_published
from bnas_jax.search import Darts
from bnas_jax.training.optimizers import latent_sgd
from bnas_jax.training.state import search_state_of
from bnas_jax.training.steps import SearchStep

pytestmark = pytest.mark.long

CELLS = ("normal", "reduce")


@functools.cache
def arrays_of(folder, name: str) -> dict[str, np.ndarray]:
    with np.load(folder / "searchers" / f"{name}.npz", allow_pickle=False) as stored:
        return dict(stored)


def batch(arrays, name: str) -> dict:
    """{"image", "label"} of `x_NAME` and `y_NAME`, channels last."""
    suffix = f"_{name}" if name else ""
    images = np.ascontiguousarray(arrays[f"x{suffix}"].transpose(0, 2, 3, 1))
    return {"image": jnp.asarray(images), "label": jnp.asarray(arrays[f"y{suffix}"], jnp.int32)}


def of_cells(arrays, name: str) -> dict[str, jax.Array]:
    return {cell: jnp.asarray(arrays[name.format(cell)], jnp.float32) for cell in CELLS}


def begun(model, variables, alphas, step: SearchStep):
    return search_state_of(variables, alphas, step.weights, step.alphas, 1, seed=0)


def with_momentum(state, momentum):
    """The state with these momentum buffers, in the form of the parameters."""
    flat, _ = ravel_pytree(momentum)
    set_trace = lambda path, leaf: flat if "trace" in jax.tree_util.keystr(path) else leaf
    return state.replace(opt_state=jax.tree_util.tree_map_with_path(set_trace, state.opt_state))


def apart(found, expected) -> float:
    """The largest difference, relative to the largest entry of all."""
    found, expected = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (found, expected))
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("case", ["absent", "present", "decay"])
@pytest.mark.parametrize(("unrolled", "product"), [("difference", ""), ("exact", "exact_")])
def test_the_second_order_gradient_of_alpha_is_that_of_darts(reference, case, unrolled, product):
    arrays = arrays_of(reference, "darts_second_order_c4_l3")
    model, variables = load_published("darts_second_order_c4_l3", arrays)
    decay = float(arrays.get(f"{case}.weight_decay", 3e-4))
    eta, factor = float(arrays["eta"]), float(arrays["momentum_factor"])
    weights = latent_sgd(eta, momentum=factor, weight_decay=decay, scheme=model.scheme, clip_norm=5.0)
    step = SearchStep(model, Darts(unrolled=unrolled), weights=weights, alphas=optax.sgd(1.0))
    state = begun(model, variables, of_cells(arrays, "alphas_{}"), step)
    if case == "present":
        buffers = {
            f"state.{name.removeprefix('momentum.')}": value for name, value in arrays.items() if name[:9] == "momentum."
        }
        _, momentum = load_published("darts_second_order_c4_l3", {**arrays, **buffers})
        state = with_momentum(state, momentum["params"])

    batches = {name: batch(arrays, name) for name in ("train", "valid")}
    after = step.stage(0, state, batches)
    found = jax.tree.map(lambda before, after: before - after, state.alphas, after.alphas)
    assert apart(found, of_cells(arrays, f"{case}.{product}grad_alphas_{{}}")) < 1e-4
