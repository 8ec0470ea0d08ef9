"""Gradients that a step leaves out when it is told to, and that are the same where it does not."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnas_jax.core import convolution
from bnas_jax.core.rules import PAPER, RELEASE

# kernel, stride, padding, dilation, groups
GEOMETRIES = [(3, 1, 1, 1, 1), (5, 2, 2, 1, 1), (3, 1, 2, 2, 1), (5, 2, 4, 2, 1), (3, 2, 1, 1, 2), (3, 3, 0, 1, 1)]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_gradient_at_the_kernel_is_that_of_the_convolution(geometry):
    side, *options = geometry
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (3, 8, 9, 4))
    kernel = jax.random.normal(keys[1], (side, side, 4 // options[-1], 6))

    @jax.jit
    def both():
        y, back = jax.vjp(lambda kernel: convolution._conv(x, kernel, *options), kernel)
        gradient = jax.random.normal(keys[2], y.shape)
        return convolution._kernel_gradient(x, gradient, (side, side), *options), back(gradient)[0]

    np.testing.assert_allclose(*both(), rtol=1e-5, atol=1e-5)


def inputs(stride: int):
    keys = jax.random.split(jax.random.key(0), 4)
    edges, channels = 3, 4
    x = jnp.sign(jax.random.normal(keys[0], (2, 8, 8, channels)))
    latent = 0.1 * jax.random.normal(keys[1], (3, 3, channels, edges * channels))
    weights = jax.random.uniform(keys[2], (edges,))
    return (x, latent, weights), jax.random.normal(keys[3], (2, 8 // stride, 8 // stride, edges, channels))


def gradients(arguments, gradient, rules, stride, for_alphas):
    function = lambda x, latent, weights: convolution.weighted_binary_conv(
        x, latent, None, weights, rules, for_alphas, stride=stride, padding=1
    )
    return jax.vjp(function, *arguments)[1](gradient)


@pytest.mark.parametrize("rules", [PAPER, RELEASE])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_half_of_a_step_that_is_told_so_leaves_out_the_latent_weights_alone(rules, stride):
    arguments, gradient = inputs(stride)
    expected = jax.jit(lambda: gradients(arguments, gradient, rules, stride, None))()
    told = jax.jit(lambda flag: gradients(arguments, gradient, rules, stride, flag))
    of_weights, of_alphas = told(jnp.array(False)), told(jnp.array(True))
    for one, other in zip(of_weights, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    for position in (0, 2):
        np.testing.assert_allclose(of_alphas[position], expected[position], rtol=1e-5, atol=1e-6)
    assert not of_alphas[1].any() and expected[1].any()


@pytest.mark.parametrize("stride", [1, 2])
def test_inside_the_condition_a_convolution_has_its_axes_in_the_order_of_fast_kernels(stride):
    arguments, gradient = inputs(stride)
    told = jax.jit(lambda arguments, flag: gradients(arguments, gradient, PAPER, stride, flag)[1])
    text = told.lower(arguments, jnp.array(True)).compile().as_text()
    assert " conditional(" in text
    assert set(re.findall(r"dim_labels=(\S+?)[,\s]", text)) == {"b01f_01io->b01f"}
