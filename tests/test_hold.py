"""What is held in memory on purpose is the same value with the same gradient."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnas_jax.core import convolution
from bnas_jax.core.hold import hold, remat
from bnas_jax.core.rules import PAPER, RELEASE


def test_what_is_held_is_the_same_and_so_is_its_gradient():
    x = jnp.array([[1.5, -2.0], [jnp.inf, jnp.nan]])
    assert jnp.array_equal(jax.jit(hold)(x), x, equal_nan=True)
    tree = {"float": x, "int": jnp.arange(3, dtype=jnp.int16)}
    held = jax.jit(hold)(tree)
    assert jnp.array_equal(held["int"], tree["int"]) and held["int"].dtype == jnp.int16
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(hold(x) ** 3)))(jnp.array([2.0, -1.0]))
    assert jnp.array_equal(gradient, jnp.array([12.0, 3.0]))


def sums_in_memory(function, dtype) -> int:
    """How many arrays of 64x64 a compiled chain of sums, each read twice, writes."""

    def chain(x):
        read = []
        for _ in range(3):
            x = function(x + jnp.abs(x))
            read += [2 * x[:, :1], 3 * x[:1]]
        return read

    compiled = jax.jit(chain).lower(jnp.ones((64, 64), dtype)).compile().as_text().partition("ENTRY")[2]
    return len(re.findall(r"= \w+\[64,64\]\S* fusion", compiled))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.int16])
def test_what_is_held_is_written_once(dtype):
    assert sums_in_memory(hold, dtype) == 3
    assert sums_in_memory(lambda x: x, dtype) == sums_in_memory(jax.lax.optimization_barrier, dtype) == 0


def test_what_is_worked_out_again_keeps_its_inputs_alone():
    function = lambda x, y: jnp.sin(jnp.exp(x) * y)
    inputs = (jnp.arange(4.0), jnp.arange(4.0) + 1)
    plain = jax.vjp(function, *inputs)
    again = jax.vjp(remat(function), *inputs)
    assert jnp.array_equal(plain[0], again[0])
    for one, other in zip(plain[1](jnp.ones(4)), again[1](jnp.ones(4)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    assert len(jax.tree.leaves(again[1])) == len(inputs)


@pytest.mark.parametrize("rules", [PAPER, RELEASE])
@pytest.mark.parametrize("stride", [1, 2])
def test_the_weighted_binary_convolution_is_its_composition_and_keeps_two_bytes_a_sum(rules, stride):
    keys = jax.random.split(jax.random.key(0), 5)
    edges, channels = 3, 8  # of which PAPER counts
    x = jnp.sign(jax.random.normal(keys[0], (2, 8, 8, channels)))
    latent = 0.1 * jax.random.normal(keys[1], (3, 3, channels, edges * channels))
    weights = jax.random.uniform(keys[2], (edges,))
    size = 8 // stride
    scale = jax.random.uniform(keys[3], (2, size, size, 1, 1)) if rules.activation_scale else None
    geometry = {"stride": stride, "padding": 1}

    def composed(x, latent, weights):
        return convolution.weighted_edges(convolution.binary_conv(x, latent, rules, **geometry), scale, weights, rules)

    def ours(x, latent, weights):
        return convolution.weighted_binary_conv(x, latent, scale, weights, rules, **geometry)

    (y, back), (expected, plain) = jax.vjp(ours, x, latent, weights), jax.vjp(composed, x, latent, weights)
    assert jnp.array_equal(y, expected) and y.shape == (2, size, size, edges, channels)
    gradient = jax.random.normal(keys[4], y.shape)
    for one, other in zip(back(gradient), plain(gradient), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert [leaf.dtype for leaf in jax.tree.leaves(back) if leaf.size == y.size] == [jnp.int16]


def test_sums_too_large_for_two_bytes_are_kept_in_four():
    x, latent = jnp.ones((1, 1, 1, 40000)), jnp.ones((1, 1, 40000, 1))
    y, back = jax.vjp(lambda w: convolution.weighted_binary_conv(x, latent, None, w, PAPER), jnp.ones(1))
    assert y.item() == 40000 and back(jnp.ones(y.shape))[0].item() == 40000
