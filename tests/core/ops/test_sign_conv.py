"""The convolution of signs against the composition that JAX differentiates.

Its value, and every gradient.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import normal, of_bfloat16, relative_error, signs

from bnas_jax.core.errors import UserError
from bnas_jax.core.ops.conv_forms import plain_conv
from bnas_jax.core.ops.geometry import Geometry, square
from bnas_jax.core.ops.popcount import pays
from bnas_jax.core.ops.sign_conv import (
    LARGEST_OF_HALF,
    integer_sums,
    plain_sign_conv,
    sign_conv,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

# kernel, geometry, channels, whether the sums come from popcount
CASES = {
    "3x3 by popcount": ((3, 3), square(3), 8, True),
    "1x1 by popcount": ((1, 1), square(1), 20, True),
    "dilated, strided, by popcount": ((5, 5), square(5, stride=2, dilation=2), 8, True),
    "2x2 of stride 2 by popcount": ((2, 2), square(2, stride=2, padding=0), 8, True),
    "few channels": ((3, 3), square(3), 3, False),
    "1x1 of few channels": ((1, 1), square(1), 3, False),
    "groups": ((3, 3), square(3, stride=2, groups=2), 8, False),
    "1x3 of stride (1, 2)": ((1, 3), Geometry(stride=(1, 2), padding=(0, 1)), 8, False),
    "3x1 of stride (2, 1), dilated": (
        (3, 1),
        Geometry(stride=(2, 1), padding=(2, 0), dilation=(2, 1)),
        3,
        False,
    ),
}
FEATURES = 6


def after(sums, beta, gamma, shift):
    """Something of every kind: a scale of channels, one of places, and a curve."""
    return jnp.tanh(sums * beta * gamma / 8 + shift) * beta


def value_and_gradients(function, gradient_seed: int, *arguments):
    y, back = jax.vjp(function, *arguments)
    return y, *back(jnp.asarray(normal(*y.shape, seed=gradient_seed), y.dtype))


def inputs(kernel, geometry: Geometry, channels: int, *, zeros: bool):
    """(x, w, operands) in float64."""
    x = signs(2, 7, 8, channels).astype(np.float64)
    w = signs(*kernel, channels // geometry.groups, FEATURES, seed=1).astype(np.float64)
    if zeros:
        x, w = x * (normal(*x.shape, seed=2) > -1), w * (normal(*w.shape, seed=3) > -1)
    size = geometry.output_size(x.shape[1:3], kernel)
    operands = [
        normal(FEATURES, seed=4),
        normal(*size, 1, seed=5),
        normal(FEATURES, seed=6),
    ]
    return x, w, [operand.astype(np.float64) for operand in operands]


@pytest.mark.parametrize("one_bit", [True, False], ids=["one bit", "zeros"])
@pytest.mark.parametrize("case", CASES)
def test_value_and_all_gradients_are_those_of_the_composition(case, one_bit):
    kernel, geometry, channels, counted = CASES[case]
    assert pays((*kernel, channels // geometry.groups, FEATURES), geometry) == counted
    x, w, operands = inputs(kernel, geometry, channels, zeros=not one_bit)
    with jax.enable_x64(True):
        ours = lambda x, w, *operands: sign_conv(
            after, geometry, x, w, operands, one_bit=one_bit
        )
        plain = lambda x, w, *operands: plain_sign_conv(after, geometry, x, w, operands)
        both = jax.jit(
            lambda *all: [
                value_and_gradients(function, 7, *all) for function in (ours, plain)
            ]
        )
        found, expected = both(x, w, *operands)
    assert len(found) == 1 + 2 + len(operands)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == jnp.float64 and np.any(other)
        np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-12)


def scaled_by_place(sums, gamma):
    return sums * gamma


def test_a_learned_scale_of_each_place_gets_the_gradient_that_trains_it():
    """A scale such as XNOR-Net++'s Gamma.

    Its gradient is the sum of the output's gradient times the integer sums.
    """
    x, w, gamma = signs(4, 5, 5, 8), signs(3, 3, 8, 3, seed=1), normal(5, 5, 3, seed=2)
    function = lambda gamma: sign_conv(scaled_by_place, square(3), x, w, (gamma,))
    y, back = jax.vjp(function, gamma)
    gradient = normal(*y.shape, seed=3)
    sums = np.asarray(plain_conv(x, w, square(3)))
    assert np.allclose(y, sums * gamma, rtol=1e-6)
    assert relative_error(back(gradient)[0], (gradient * sums).sum(axis=0)) < 1e-6


def test_a_second_derivative_which_would_be_zero_is_refused_with_what_to_write():
    """Of (w * x)^2: its second derivative by x is 2 w^2, not 0."""
    x, w = signs(1, 1, 1, 1), signs(1, 1, 1, 1, seed=1)
    loss = lambda x: sign_conv(jnp.square, square(1), x, w).sum()
    for second in (jax.jacrev(jax.grad(loss)), jax.hessian(loss)):
        with pytest.raises(UserError, match=r"Arithmetic\(plain=True\), and reverse"):
            second(x)
    plain = lambda x: plain_sign_conv(jnp.square, square(1), x, w).sum()
    assert jax.jacrev(jax.grad(plain))(x).item() == 2


def scaled(sums, beta):
    return sums * beta


@pytest.mark.parametrize("channels", [4, 8], ids=["convolved", "by popcount"])
@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
def test_what_is_stored_is_two_signs_and_two_bytes_a_sum(channels, dtype):
    x, w, beta = signs(2, 8, 8, channels), signs(3, 3, channels, 5, seed=1), normal(5)
    y, back = jax.vjp(
        lambda *all: sign_conv(scaled, square(3), all[0], all[1], all[2:], dtype=dtype),
        x,
        w,
        beta,
    )
    stored = sorted((leaf.size, str(leaf.dtype)) for leaf in jax.tree.leaves(back))
    assert stored == sorted(
        [
            (x.size, "float32"),
            (w.size, "float32"),
            (beta.size, "float32"),
            (y.size, "int16"),
        ]
    )


@pytest.mark.parametrize("one_bit", [True, False])
def test_sums_too_large_for_two_bytes_take_four(one_bit):
    x, w = jnp.ones((1, 1, 1, 40000)), jnp.ones((1, 1, 40000, 1))
    assert integer_sums(x, w, square(1), one_bit=one_bit).dtype == jnp.int32
    y, back = jax.vjp(
        lambda beta: sign_conv(scaled, square(1), x, w, (beta,), one_bit=one_bit),
        jnp.ones(1),
    )
    assert y.item() == 40000 and back(jnp.ones(y.shape))[0].item() == 40000


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_sums_are_integers_in_every_type(size, dtype):
    """Of 5x5x64 inputs they reach 1,600, and bfloat16 counts one by one up to 256 only.

    A sum that is 0 is exactly 0.
    """
    x, w = np.sign(normal(2, 8, 8, 64) + 1.5), signs(size, size, 64, 6, seed=1)
    w[..., 0] = 1
    expected = np.asarray(
        plain_conv(x.astype(np.int32), w.astype(np.int32), square(size))
    )
    for one_bit in (True, False):
        y = sign_conv(
            scaled, square(size), x, w, (np.float32(1),), one_bit=one_bit, dtype=dtype
        )
        assert y.dtype == jnp.float32 and np.array_equal(y, expected)
    assert expected[..., 0].max() > 0.75 * 64 * size**2
    assert np.mean(expected == 0) > 0.003


def test_bfloat16_rounds_no_sums_of_the_gradients():
    x, w, gradient = (
        signs(2, 8, 8, 4),
        signs(3, 3, 4, 6, seed=1),
        of_bfloat16(2, 8, 8, 6),
    )
    beta = np.float32([0.5, 1, 2, 0.25, 1, 4])

    @jax.jit
    def gradients():
        function = lambda dtype: (
            lambda *all: sign_conv(
                scaled, square(3), all[0], all[1], all[2:], dtype=dtype
            )
        )
        return [
            jax.vjp(function(dtype), x, w, beta)[1](gradient)
            for dtype in (None, jnp.bfloat16)
        ]

    for exact, short in zip(*gradients(), strict=True):
        assert short.dtype == jnp.float32
        np.testing.assert_allclose(
            short, exact, rtol=1e-5, atol=1e-5 * np.abs(exact).max()
        )


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
def test_counting_changes_no_bit(dtype):
    x, w, beta = signs(2, 8, 8, 16), signs(3, 3, 16, 5, seed=1), normal(5)
    function = lambda one_bit: (
        lambda *all: sign_conv(
            scaled, square(3), all[0], all[1], all[2:], one_bit=one_bit, dtype=dtype
        )
    )
    counted, convolved = (
        value_and_gradients(function(one_bit), 2, x, w, beta)
        for one_bit in (True, False)
    )
    for ours, theirs in zip(counted, convolved, strict=True):
        assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs)


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("kernel", "channels", "products"),
    [(1, 2048, "f16"), (3, 224, "f16"), (1, 2049, "f32"), (3, 256, "f32")],
)
def test_on_gpus_sums_are_halves_as_long_as_a_half_holds_them(
    dtype, kernel, channels, products
):
    """Never of bfloat16, which holds integers up to 256 alone."""
    x, w = signs(1, 4, 4, channels), signs(kernel, kernel, channels, 2, seed=1)
    sums = lambda x, w: integer_sums(x, w, square(kernel), one_bit=True, dtype=dtype)
    text = jax.jit(sums).trace(x, w).lower(lowering_platforms=("cuda",)).as_text()
    (product,) = re.findall(r"stablehlo\.(?:dot_general|convolution).*", text)
    assert re.findall(r"x([a-z]+\d+)>", product.rpartition(" : ")[2]) == 3 * [products]


def test_halves_give_every_sum_that_is_left_to_them():
    every = np.arange(-LARGEST_OF_HALF, LARGEST_OF_HALF + 1)
    assert (every.astype(np.float16).astype(int) == every).all()
