"""Convolutions in their fast forms, and their gradients, in short types too."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import normal, of_bfloat16, relative_error, with_gradients

from bnas_jax.core.ops.conv import conv, input_gradient, kernel_gradient
from bnas_jax.core.ops.conv_forms import fast_conv, plain_conv
from bnas_jax.core.ops.geometry import Geometry, square

pytestmark = pytest.mark.usefixtures("quick_compilation")

# kernel, geometry
GEOMETRIES = [
    ((3, 3), square(3)),
    ((5, 5), square(5, stride=2)),
    ((3, 3), square(3, dilation=2)),
    ((5, 5), square(5, stride=2, dilation=2)),
    ((3, 3), square(3, stride=2, groups=2)),
    ((3, 3), square(3, stride=3, padding=0)),
    ((1, 3), Geometry(stride=(1, 2), padding=(0, 1))),
    ((3, 1), Geometry(stride=(2, 1), padding=(2, 0), dilation=(2, 1))),
]


@pytest.mark.parametrize(("kernel", "geometry"), GEOMETRIES)
def test_gradients_are_those_of_the_convolution(kernel, geometry):
    x, w = normal(3, 8, 9, 4), normal(*kernel, 4 // geometry.groups, 6, seed=1)
    gradient = normal(3, *geometry.output_size((8, 9), kernel), 6, seed=2)

    @jax.jit
    def both(x, w, gradient):
        ours = (
            input_gradient(gradient, w, x.shape[1:3], geometry),
            kernel_gradient(x, gradient, kernel, geometry),
        )
        return ours, jax.vjp(lambda x, w: plain_conv(x, w, geometry), x, w)[1](gradient)

    for ours, expected in zip(*both(x, w, gradient), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


# kernel, geometry, outputs of four channels
GROUPED = [
    ((3, 3), square(3, stride=2, groups=4), 4),
    ((5, 5), square(5, dilation=2, groups=4), 4),
    ((1, 3), Geometry(stride=(1, 2), padding=(0, 1), groups=4), 4),
    ((1, 1), square(1, groups=2), 6),
    ((1, 1), square(1, stride=2, groups=2), 6),
    ((3, 3), square(3, groups=4), 8),
]


@pytest.mark.parametrize(("kernel", "geometry", "features"), GROUPED)
def test_depthwise_and_grouped_convolutions_and_their_gradients(
    kernel, geometry, features
):
    """They are a sum over taps, and matrix products.

    XLA's CPU compiler has no fast convolution for them.
    """
    x, w = normal(2, 7, 8, 4), normal(*kernel, 4 // geometry.groups, features, seed=1)
    gradient = normal(2, *geometry.output_size((7, 8), kernel), features, seed=2)

    def numbers(function):
        y, gradients = with_gradients(
            lambda x, w: function(x, w, geometry), gradient, x, w
        )
        return y, *gradients

    for ours, expected in zip(numbers(conv), numbers(plain_conv), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


def test_a_depthwise_convolution_is_no_convolution_of_xla():
    x, w = normal(2, 7, 8, 4), normal(3, 3, 1, 4)
    text = jax.jit(lambda x, w: conv(x, w, square(3, groups=4))).lower(x, w).as_text()
    assert "convolution" not in text


@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize(
    "geometry",
    [
        {"stride": 2, "padding": 4, "dilation": 2},
        {"stride": 2, "padding": 1},
        {"padding": 0},
    ],
)
def test_every_form_of_a_convolution_gives_its_sums(kernel, size, geometry):
    if 2 * geometry["padding"] + size < geometry.get("dilation", 1) * (kernel - 1) + 1:
        return
    x, w = normal(2, size, size, 3), normal(kernel, kernel, 3, 4, seed=1)
    geometry = square(kernel, **geometry)
    ours = jax.jit(lambda x, w: conv(x, w, geometry))(x, w)
    assert ours.shape[1:3] == geometry.output_size((size, size), (kernel, kernel))
    pad, dilation, stride = (
        geometry.padding[0],
        geometry.dilation[0],
        geometry.stride[0],
    )
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    for row in range(ours.shape[1]):
        first = stride * row
        taps = padded[
            :,
            first : first + dilation * kernel : dilation,
            : dilation * kernel : dilation,
        ]
        assert np.allclose(
            ours[:, row, 0], np.einsum("nhwi,hwio->no", taps, w), atol=1e-4
        )


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
def test_a_1x1_convolution_is_a_matrix_product(dtype):
    x, kernel = np.sign(normal(2, 5, 5, 8)), np.sign(normal(1, 1, 8, 3, seed=1))
    integers = lambda y: np.round(normal(*y.shape, seed=2))

    y, gradients = with_gradients(
        lambda x, w: conv(x, w, dtype=dtype), integers, x, kernel
    )
    expected, plain = with_gradients(
        lambda x, w: conv(x, w, plain=True), integers, x, kernel
    )

    assert np.array_equal(y, expected)
    for ours, theirs in zip(gradients, plain, strict=True):
        assert np.array_equal(ours, theirs)
    lowered = jax.jit(fast_conv, static_argnums=2).lower(x, kernel, square(1)).as_text()
    assert "dot_general" in lowered and "stablehlo.convolution" not in lowered


@pytest.mark.parametrize(
    ("kernel", "geometry"),
    [
        ((1, 1), square(1)),
        ((1, 1), square(1, stride=2)),
        ((2, 2), square(2, stride=2)),
        *GEOMETRIES,
    ],
)
def test_bfloat16_rounds_factors_and_no_sums_of_a_convolution_and_its_gradients(
    kernel, geometry
):
    x, w = (
        of_bfloat16(3, 8, 9, 4),
        of_bfloat16(*kernel, 4 // geometry.groups, 6, seed=1),
    )

    def value_and_gradients(dtype):
        y, back = jax.vjp(lambda x, w: conv(x, w, geometry, dtype=dtype), x, w)
        return y, *back(of_bfloat16(*y.shape, seed=2))

    exact, short = jax.jit(
        lambda: [value_and_gradients(dtype) for dtype in (None, jnp.bfloat16)]
    )()
    for ours, expected in zip(short, exact, strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(
            ours, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max()
        )


@pytest.mark.parametrize("geometry", [square(3), square(3, stride=2, dilation=2)])
def test_bfloat16_is_close_to_float32(geometry):
    x, w = normal(2, 8, 8, 8), normal(3, 3, 8, 6, seed=1)
    exact, short = (conv(x, w, geometry, dtype=dtype) for dtype in (None, jnp.bfloat16))
    assert short.dtype == jnp.float32
    assert 0 < relative_error(short, exact) < 1e-2


@pytest.mark.parametrize(("platform", "results"), [("cuda", "bf16"), ("tpu", "f32")])
def test_short_factors_give_short_results_on_gpus_alone(platform, results):
    """Forward, and in the gradients at the image and the kernel.

    cuDNN has no convolution of short factors with a longer result.
    """
    x, w = normal(2, 8, 8, 4), normal(3, 3, 4, 6, seed=1)

    def loss(x, w):
        return jnp.sum(conv(x, w, square(3), dtype=jnp.bfloat16) ** 2)

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1))).trace(x, w)
    text = gradients.lower(lowering_platforms=(platform,)).as_text()
    convolutions = re.findall(r"stablehlo\.convolution.*-> tensor<\S*x(\w+)>", text)
    assert convolutions == 3 * [results]
