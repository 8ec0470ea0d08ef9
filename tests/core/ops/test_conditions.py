"""What a compiler makes of a convolution's gradient inside a condition."""

import re

import jax
import jax.numpy as jnp
import pytest
from arrays import normal

from bnas_jax.core.ops.conv import kernel_gradient
from bnas_jax.core.ops.geometry import square


@pytest.mark.parametrize("stride", [1, 2])
def test_in_a_condition_the_gradient_of_a_kernel_has_the_axes_of_fast_kernels(
    stride,
):
    geometry = square(3, stride=stride)
    x, gradient = normal(2, 8, 8, 4), normal(2, 8 // stride, 8 // stride, 12, seed=1)

    def chosen(flag, x, gradient):
        compute = lambda: kernel_gradient(x, gradient, (3, 3), geometry)
        return jax.lax.cond(flag, compute, lambda: jnp.zeros((3, 3, 4, 12)))

    text = jax.jit(chosen).lower(True, x, gradient).compile().as_text()
    assert " conditional(" in text
    assert set(re.findall(r"dim_labels=(\S+?)[,\s]", text)) == {"b01f_01io->b01f"}
