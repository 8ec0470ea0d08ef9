"""Poolings, their borders and their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import normal

from bnas_jax.core.ops.pool import avg_pool, max_pool, plain_max_pool

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(7, 8), (2, 1)])
def test_max_pooling_and_its_gradient_are_those_of_the_window_function(stride, size):
    x = jnp.asarray(normal(2, *size, 3))
    ours, pull = jax.vjp(lambda x: max_pool(x, stride), x)
    theirs, plain_pull = jax.vjp(lambda x: plain_max_pool(x, stride), x)
    assert np.array_equal(ours, theirs)
    gradient = jnp.asarray(normal(*ours.shape, seed=1))
    assert np.allclose(pull(gradient)[0], plain_pull(gradient)[0], atol=1e-6)


def test_of_equal_values_the_first_takes_the_gradient_of_max_pooling():
    gradient = jax.grad(lambda x: max_pool(x, 1).sum())(jnp.ones((1, 3, 3, 1)))[
        0, :, :, 0
    ]
    assert np.array_equal(gradient, [[4, 2, 0], [2, 1, 0], [0, 0, 0]])
    assert np.isnan(max_pool(jnp.array([[[[1.0], [jnp.nan]]]]), 1)).all(), (
        "a NaN is not hidden"
    )


def test_pools_know_where_the_image_ends():
    assert np.allclose(avg_pool(jnp.ones((1, 5, 5, 2)), 1), 1), (
        "padding is not averaged in"
    )
    x = normal(1, 4, 4, 1)
    assert np.allclose(avg_pool(x, 2)[0, 0, 0], x[0, :2, :2].mean())
    assert np.array_equal(
        max_pool(-jnp.ones((1, 5, 5, 2)), 1), -np.ones((1, 5, 5, 2))
    ), "padding is no 0"
