"""Sums of signs counted in packed bits are those of a convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import signs

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.modules import BinaryConv
from bnas_jax.core.ops.conv_forms import plain_conv
from bnas_jax.core.ops.geometry import Geometry, square
from bnas_jax.core.ops.popcount import pays, sums_of_signs
from bnas_jax.core.schemes import Xnor


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
def test_what_is_counted_is_the_convolution(
    channels, kernel, stride, padding, dilation
):
    """Words of 8, 16 and 32 bits, full and not, and unequal sides.

    The borders count nothing.
    """
    x, weights = signs(2, 9, 7, channels), signs(kernel, kernel, channels, 3, seed=1)
    geometry = square(kernel, stride=stride, padding=padding, dilation=dilation)
    expected = plain_conv(x, weights, geometry)
    counted = sums_of_signs(x, weights, geometry)
    assert counted.dtype == jnp.int32
    assert np.array_equal(counted, expected)


def test_what_is_not_below_zero_stands_for_one():
    x = jnp.array([-2.0, -1e-30, -0.0, 0.0, 1e-30, 3.0]).reshape(6, 1, 1, 1)
    assert sums_of_signs(x, jnp.ones((1, 1, 1, 1)), square(1)).ravel().tolist() == [
        -1,
        -1,
        1,
        1,
        1,
        1,
    ]
    assert sums_of_signs(
        x, jnp.full((1, 1, 1, 1), -0.5), square(1)
    ).ravel().tolist() == [
        1,
        1,
        -1,
        -1,
        -1,
        -1,
    ]


def counted(channels: int, platform: str, *, sign_of_zero: int = 1, **options) -> bool:
    """Whether a layer's sums come from popcount on a platform.

    Else they come from a convolution.
    """
    scheme = Xnor(sign_of_zero=sign_of_zero)
    layer = BinaryConv(
        features=4, kernel=3, scheme=scheme, arithmetic=Arithmetic(), **options
    )
    x = jax.ShapeDtypeStruct((1, 8, 8, channels), jnp.float32)
    variables = jax.eval_shape(
        lambda key, x: layer.init(key, x, train=False), jax.random.key(0), x
    )
    traced = jax.jit(lambda variables, x: layer.apply(variables, x, train=False)).trace(
        variables, x
    )
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert ("popcnt" in text) != ("stablehlo.convolution" in text)
    return "popcnt" in text


def test_signs_are_counted_on_cpu_where_one_bit_holds_them():
    assert counted(16, "cpu")
    assert not counted(16, "cuda")
    assert not counted(16, "cpu", sign_of_zero=0), "zeros have a sign of their own"
    assert not counted(16, "cpu", binary_input=False), "not signs"
    assert not counted(16, "cpu", binary_weights=False), "not signs"
    assert not counted(4, "cpu"), "too few to fill words"
    assert not counted(1024, "cpu"), "too many to compile"


@pytest.mark.parametrize("unequal", ["stride", "padding", "dilation"])
def test_what_differs_between_rows_and_columns_is_not_counted(unequal):
    """The words are made with the numbers of the rows alone."""
    assert pays((3, 3, 16, 4), square(3))
    assert not pays((3, 3, 16, 4), Geometry(**{unequal: (1, 2)}))
    assert not pays((1, 3, 16, 4), Geometry())
