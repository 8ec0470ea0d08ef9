"""Operations counted in a traced program, beside XLA's count of the same one."""

import jax
import jax.numpy as jnp
import pytest

from bnas_jax.plan.products import products


def counted(function, *arguments) -> float:
    return products(jax.jit(function).trace(*arguments).jaxpr.jaxpr)


def by_xla(function, *arguments) -> float:
    return jax.jit(function).lower(*arguments).cost_analysis()["flops"]


def convolve(images, kernel, **options):
    """NHWC images and a kernel HWIO."""
    return jax.lax.conv_general_dilated(
        images, kernel, dimension_numbers=("NHWC", "HWIO", "NHWC"), **options
    )


IMAGES = jnp.ones((2, 9, 7, 4))


@pytest.mark.parametrize(
    "options",
    [
        {"window_strides": (1, 1), "padding": "SAME"},
        {"window_strides": (2, 1), "padding": ((1, 1), (0, 2))},
        {"window_strides": (1, 1), "padding": ((4, 4), (4, 4)), "rhs_dilation": (2, 2)},
        {"window_strides": (1, 1), "padding": ((2, 2), (2, 2)), "lhs_dilation": (2, 3)},
        {"window_strides": (1, 1), "padding": "VALID", "feature_group_count": 2},
    ],
)
def test_a_convolution_is_counted_as_xla_does(options):
    groups = options.get("feature_group_count", 1)
    kernel = jnp.ones((3, 3, 4 // groups, 6))

    found = counted(lambda x, k: convolve(x, k, **options), IMAGES, kernel)

    assert found == by_xla(lambda x, k: convolve(x, k, **options), IMAGES, kernel) > 0


def test_the_gradients_of_a_convolution_are_counted_as_xla_does():
    kernel = jnp.ones((3, 3, 4, 6))
    out, backward = jax.vjp(
        lambda x, k: convolve(x, k, window_strides=(2, 2), padding="SAME"),
        IMAGES,
        kernel,
    )

    # XLA adds up what both need.
    assert counted(backward, out) == by_xla(backward, out) > 0


def test_a_product_of_matrices_and_what_calls_it():
    one = 2 * 5 * 5 * 5
    a = jnp.ones((5, 5))
    inner = jax.checkpoint(jax.jit(lambda x: x @ a))

    assert counted(inner, a) == one
    # A loop counts as often as it runs, which XLA does not do; of branches the dearest.
    loop = lambda x: jax.lax.scan(lambda sums, _: (inner(sums), None), x, length=7)[0]
    assert counted(loop, a) == 7 * one
    branches = lambda x: jax.lax.cond(x[0, 0] > 0, lambda: x @ a @ a, lambda: x @ a)
    assert counted(branches, a) == 2 * one
