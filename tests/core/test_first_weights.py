"""How weights are drawn first: which parameters each rule draws, and from where."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnas_jax.core.first_weights import FIRST_WEIGHTS, redrawn

ONES = {
    "stem": {"conv": {"kernel": jnp.ones((3, 3, 3, 64)), "bias": jnp.ones(64)}},
    "bn": {"scale": jnp.ones(64), "bias": jnp.ones(64)},
    "unit0": {"latent": jnp.ones((3, 3, 64, 64)), "slope": jnp.ones(64)},
    "unit1": {"latent": jnp.ones((3, 3, 64, 64)), "bias": jnp.ones(64)},
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
KERNELS = {"stem/conv/kernel", "unit0/latent", "unit1/latent"}


def test_modules_draw_as_pytorch_does():
    assert kept(drawn("pytorch")) == EVERY


def test_bireal_draws_latent_weights_between_0_and_a_thousandth():
    params = drawn("bireal")
    assert EVERY - kept(params) == {"unit0/latent", "unit1/latent"}
    latent = np.asarray(params["unit0"]["latent"])
    assert latent.min() >= 0 and latent.max() < 1e-3
    # Of an even distribution: half of its width, and its width / sqrt(12).
    assert latent.mean() == pytest.approx(5e-4, rel=0.02)
    assert latent.std() == pytest.approx(1e-3 / np.sqrt(12), rel=0.02)


def test_nin_draws_kernels_of_deviation_005_and_sets_their_biases_to_0():
    params = drawn("nin")
    assert EVERY - kept(params) == KERNELS | {"stem/conv/bias", "unit1/bias"}
    for kernel in (params["stem"]["conv"]["kernel"], params["unit0"]["latent"]):
        assert float(kernel.mean()) == pytest.approx(0, abs=5e-3)
        assert float(kernel.std()) == pytest.approx(0.05, rel=0.05)
    assert (
        not params["stem"]["conv"]["bias"].any() and not params["unit1"]["bias"].any()
    )


@pytest.mark.parametrize("name", ["bireal", "nin"])
def test_each_kernel_has_numbers_of_its_own_which_the_key_decides(name):
    params = drawn(name)
    one, other = params["unit0"]["latent"], params["unit1"]["latent"]
    assert float(jnp.mean(one == other)) < 0.01
    assert np.array_equal(one, drawn(name)["unit0"]["latent"])
    assert not np.array_equal(one, drawn(name, seed=1)["unit0"]["latent"])
