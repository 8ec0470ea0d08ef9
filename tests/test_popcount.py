"""Sums of signs counted in packed bits are those of a convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnas_jax.core.convolution import binary_conv, general_conv
from bnas_jax.core.layers import BinaryConv
from bnas_jax.core.popcount import sums_of_signs
from bnas_jax.core.rules import PAPER, RELEASE, Rules


def signs(*shape, seed=0):
    return np.random.default_rng(seed).choice([-1.0, 1.0], shape).astype(np.float32)


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "padding", "dilation"),
    [
        (64, 1, 1, 0, 1),
        (16, 1, 2, 0, 1),
        (36, 2, 2, 0, 1),
        (1, 3, 1, 1, 1),
        (16, 3, 1, 1, 1),
        (36, 3, 1, 1, 1),
        (64, 3, 2, 1, 1),
        (8, 3, 2, 2, 2),
        (36, 5, 1, 4, 2),
        (16, 5, 2, 3, 1),
    ],
)
def test_what_is_counted_is_the_convolution(channels, kernel, stride, padding, dilation):
    """Words of 8, 16 and 32 bits, full and not; unequal sides; borders, where nothing counts."""
    x, weights = signs(2, 9, 7, channels), signs(kernel, kernel, channels, 3, seed=1)
    expected = general_conv(x, weights, stride, padding, dilation, 1)
    counted = sums_of_signs(x, weights, stride=stride, padding=padding, dilation=dilation)
    assert counted.dtype == jnp.int32
    assert np.array_equal(counted, expected)


def test_what_is_not_below_zero_stands_for_one():
    x = jnp.array([-2.0, -1e-30, -0.0, 0.0, 1e-30, 3.0]).reshape(6, 1, 1, 1)
    assert sums_of_signs(x, jnp.ones((1, 1, 1, 1))).ravel().tolist() == [-1, -1, 1, 1, 1, 1]
    assert sums_of_signs(x, jnp.full((1, 1, 1, 1), -0.5)).ravel().tolist() == [1, 1, -1, -1, -1, -1]


def lowered(layer, channels: int, platform: str) -> str:
    x = jax.ShapeDtypeStruct((1, 8, 8, channels), jnp.float32)
    variables = jax.eval_shape(lambda key, x: layer.init(key, x, train=False), jax.random.key(0), x)
    traced = jax.jit(lambda variables, x: layer.apply(variables, x, train=False)).trace(variables, x)
    return traced.lower(lowering_platforms=(platform,)).as_text()


def test_signs_are_counted_on_cpu_where_one_bit_holds_them():
    counts = lambda text: ("popcnt" in text, "stablehlo.convolution" in text)
    assert counts(lowered(BinaryConv(4, 3, PAPER), 16, "cpu")) == (True, False)
    assert counts(lowered(BinaryConv(4, 3, PAPER), 16, "cuda")) == (False, True)
    assert counts(lowered(BinaryConv(4, 3, RELEASE), 16, "cpu")) == (False, True), "zeros have a sign of their own"
    assert counts(lowered(BinaryConv(4, 3, PAPER, sign=False), 16, "cpu")) == (False, True), "not signs"
    for channels in (4, 512):  # too few to fill words, too many to compile
        assert counts(lowered(BinaryConv(4, 3, PAPER), channels, "cpu")) == (False, True)


@pytest.mark.parametrize("rules", [PAPER, Rules(conv_dtype=jnp.bfloat16), Rules(weight_gradient="paper")])
def test_counting_changes_no_bit(rules):
    x, latent = signs(2, 8, 8, 16), np.random.default_rng(1).normal(size=(3, 3, 16, 5)).astype(np.float32)
    function = lambda of_signs: lambda x, latent: binary_conv(x, latent, rules, padding=1, of_signs=of_signs)
    (counted, back), (multiplied, plain) = (jax.vjp(function(of_signs), x, latent) for of_signs in (True, False))
    assert counted.dtype == multiplied.dtype and np.array_equal(counted, multiplied)
    for ours, theirs in zip(back(jnp.ones_like(counted)), plain(jnp.ones_like(counted)), strict=True):
        assert np.array_equal(ours, theirs)
