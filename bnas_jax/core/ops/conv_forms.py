"""The forms in which XLA can compute a convolution, and where each of them is fast."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from bnas_jax.core.ops.geometry import POINT, Geometry


def plain_conv(x, kernel, geometry: Geometry, *, accumulate=None, precision=None):
    """XLA's convolution of an image with a kernel, (N, H', W', O).

    x: (N, H, W, C).
    kernel: (kh, kw, C / groups, O).
    accumulate: the dtype of the sums and of the result; None is x's.
    precision: None is JAX's setting.
    """
    return convolved(
        x,
        kernel,
        accumulate=accumulate,
        window_strides=geometry.stride,
        padding=[(pad, pad) for pad in geometry.padding],
        rhs_dilation=geometry.dilation,
        feature_group_count=geometry.groups,
        precision=precision,
    )


def convolved(x, kernel, *, accumulate, **how):
    """XLA's convolution of NHWC images and HWIO kernels.

    On NVIDIA GPUs, factors of 16 bits give a result of 16 bits, which is then converted
    to `accumulate`: cuDNN sums in float32 and rounds at the end. If `accumulate` were
    passed to XLA there, it would multiply in float32, with transposes to NCHW and back
    around each call.

    accumulate: the dtype of the sums and of the result; None is x's.
    how: the other arguments of `jax.lax.conv_general_dilated`.
    """
    layout = ("NHWC", "HWIO", "NHWC")  # of images, kernels and results
    convolve: Callable = functools.partial(
        jax.lax.conv_general_dilated, dimension_numbers=layout, **how
    )

    def long(x, kernel):
        return convolve(x, kernel, preferred_element_type=accumulate)

    def short(x, kernel):
        return convolve(x, kernel).astype(accumulate)

    # Factors of the same type as the sums need no second form.
    if accumulate is None or accumulate == x.dtype:
        return long(x, kernel)
    return jax.lax.platform_dependent(x, kernel, cuda=short, default=long)


def fast_conv(x, kernel, geometry: Geometry, *, accumulate=None, precision=None):
    """`plain_conv`, in the forms that are fastest on CPU."""
    x, geometry = without_stride(x, geometry)
    if is_pointwise(kernel.shape, geometry):
        return _pointwise(
            x, kernel, geometry.groups, accumulate=accumulate, precision=precision
        )
    if is_depthwise(kernel.shape, channels=x.shape[-1], geometry=geometry):
        dtype = accumulate or x.dtype
        return depthwise(x.astype(dtype), kernel.astype(dtype), geometry=geometry)
    return plain_conv(x, kernel, geometry, accumulate=accumulate, precision=precision)


def _pointwise(x, kernel, groups: int, *, accumulate, precision):
    """A 1x1 convolution as a matrix product, which is 3 to 5 times as fast on CPU."""
    image = x.shape[:3]  # (N, H, W)
    if groups == 1:
        return jnp.einsum(
            "nhwi,io->nhwo",
            x,
            kernel[0, 0],
            precision=precision,
            preferred_element_type=accumulate,
        )

    x = x.reshape(*image, groups, -1)  # (N, H, W, G, C / G)
    kernels = kernel.reshape(kernel.shape[2], groups, -1)  # (C / G, G, O / G)
    y = jnp.einsum(
        "nhwgi,igo->nhwgo",
        x,
        kernels,
        precision=precision,
        preferred_element_type=accumulate,
    )
    return y.reshape(*image, -1)  # (N, H, W, O)


def is_pointwise(kernel_shape: tuple[int, ...], geometry: Geometry) -> bool:
    """Whether the convolution is a matrix product of each pixel's channels.

    kernel_shape: (kh, kw, C / groups, O).
    """
    ungrouped = dataclasses.replace(geometry, groups=1)
    return kernel_shape[:2] == (1, 1) and ungrouped == POINT


def is_depthwise(
    kernel_shape: tuple[int, ...], channels: int, geometry: Geometry
) -> bool:
    """Whether the convolution is depthwise: one kernel for each channel."""
    return geometry.groups == channels == kernel_shape[3] > 1


def depthwise(x, kernel, geometry: Geometry):
    """The depthwise convolution, (N, H', W', C), as a sum over the kernel's taps.

    XLA's CPU compiler makes one loop of it. XLA's convolution takes about 100 times as
    long there.

    x: (N, H, W, C).
    kernel: (kh, kw, 1, C).
    """
    rows, columns = kernel.shape[:2]
    size = geometry.output_size(x.shape[1:3], (rows, columns))  # (H', W')
    pad_rows, pad_columns = geometry.padding
    x = jnp.pad(x, ((0, 0), (pad_rows, pad_rows), (pad_columns, pad_columns), (0, 0)))

    def pixels(tap: int, axis: int) -> slice:
        """Which pixels of the padded image meet a tap, along one axis."""
        first = tap * geometry.dilation[axis]
        stride = geometry.stride[axis]
        return slice(first, first + stride * (size[axis] - 1) + 1, stride)

    taps = []  # (N, H', W', C) each, row by row
    for row in range(rows):
        for column in range(columns):
            taps.append(x[:, pixels(row, axis=0), pixels(column, axis=1)])

    # Each tap times its weight of each channel.
    weights = kernel.reshape(-1, kernel.shape[-1])  # (kh * kw, C)
    return sum(tap * weight for tap, weight in zip(taps, weights, strict=True))


def without_stride(x, geometry: Geometry):
    """(x, geometry) of the same convolution at stride 1, where one exists.

    It exists where the kernel reads only every stride-th pixel, such as with dilation
    2, padding 2 and stride 2: then x is reduced to these pixels. Otherwise both are
    returned as they are. At stride 1, the gradient with respect to x takes a quarter of
    the time on CPU.
    """
    if geometry.stride == (1, 1):
        return x, geometry

    # The taps and the first pixel have to lie on the grid of every stride-th pixel.
    rows, columns = geometry.stride
    for lengths in (geometry.dilation, geometry.padding):
        if lengths[0] % rows or lengths[1] % columns:
            return x, geometry

    # Padding and dilation in units of that grid.
    pad_rows, pad_columns = geometry.padding
    dilation_rows, dilation_columns = geometry.dilation
    dense = dataclasses.replace(
        geometry,
        stride=(1, 1),
        padding=(pad_rows // rows, pad_columns // columns),
        dilation=(dilation_rows // rows, dilation_columns // columns),
    )
    return x[:, ::rows, ::columns], dense
