"""Two-dimensional convolutions with explicit zero padding, and their gradients."""

import functools

import jax

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.ops.conv_forms import (
    convolved,
    fast_conv,
    is_depthwise,
    is_pointwise,
    plain_conv,
    without_stride,
)
from bnas_jax.core.ops.geometry import POINT, Geometry, Pair


def conv(x, kernel, geometry: Geometry = POINT, *, dtype=None, plain: bool = False):
    """The convolution of an image with a kernel, (N, H', W', O) in x's dtype.

    x: (N, H, W, C).
    kernel: (kh, kw, C / groups, O).
    dtype: the type, such as bfloat16, that the factors of all products are rounded to,
        in the gradients too; None rounds nothing. Sums have x's dtype; on NVIDIA GPUs
        they are first rounded to `dtype` (`convolved`).
    plain: True takes XLA's convolution and JAX's gradients for every kernel. It has no
        effect where `dtype` is given.
    """
    if plain and dtype is None:
        return plain_conv(x, kernel, geometry)

    # JAX's gradients of a matrix product and of a sum over taps are fast everywhere,
    # those of a convolution are not (`kernel_gradient`).
    if dtype is None:
        x, geometry = without_stride(x, geometry)
        channels = x.shape[-1]
        pointwise = is_pointwise(kernel.shape, geometry)
        if pointwise or is_depthwise(kernel.shape, channels, geometry=geometry):
            return fast_conv(x, kernel, geometry=geometry)
    return _conv(x, kernel, geometry=geometry, dtype=dtype)


def float_conv(x, kernel, geometry: Geometry = POINT, *, arithmetic: Arithmetic):
    """`conv` with the number types of an arithmetic, and in its form (`plain`)."""
    return conv(
        x,
        kernel,
        geometry,
        dtype=arithmetic.conv_dtype,
        plain=arithmetic.plain,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x, kernel, geometry: Geometry, dtype):
    """The convolution of x and the kernel, both rounded to `dtype` if it is given.

    JAX's own gradients would multiply in the longer type, and are slow in `lax.cond`
    and in loops (`kernel_gradient`).
    """
    if dtype is None:
        return fast_conv(x, kernel, geometry=geometry)
    return fast_conv(
        x.astype(dtype), kernel.astype(dtype), geometry=geometry, accumulate=x.dtype
    )


def _conv_forward(x, kernel, geometry, dtype):
    y = _conv(x, kernel, geometry=geometry, dtype=dtype)
    # Stored in the shorter type, in which the gradients multiply.
    stored = (x.astype(dtype or x.dtype), kernel.astype(dtype or kernel.dtype))
    return y, stored


def _conv_backward(geometry, dtype, residuals, gradient):
    x, kernel = residuals
    # Products in the shorter type, sums in the longer one.
    accumulate = gradient.dtype
    gradient = gradient.astype(dtype or gradient.dtype)
    to_x = input_gradient(
        gradient,
        kernel,
        image_size=x.shape[1:3],
        geometry=geometry,
        accumulate=accumulate,
    )
    to_kernel = kernel_gradient(
        x,
        gradient,
        kernel_size=kernel.shape[:2],
        geometry=geometry,
        accumulate=accumulate,
    )
    return to_x, to_kernel


_conv.defvjp(_conv_forward, _conv_backward)


def input_gradient(
    gradient, kernel, image_size: Pair, geometry: Geometry, *, accumulate=None
):
    """The gradient of `plain_conv` with respect to its input, (N, H, W, C).

    It is the convolution of the output's gradient, with stride - 1 zeros between its
    pixels, and the kernel rotated by 180 degrees.

    gradient: the gradient with respect to the output, (N, H', W', O).
    kernel: (kh, kw, C / groups, O).
    image_size: (H, W) of the input.
    accumulate: the dtype of the sums; None is the gradient's.
    """
    rows, columns, inputs, outputs = kernel.shape
    groups = geometry.groups

    # The kernel rotated by 180 degrees, inputs and outputs of each group exchanged.
    turned = kernel[::-1, ::-1]
    turned = turned.reshape(rows, columns, inputs, groups, outputs // groups)
    turned = turned.transpose(0, 1, 4, 3, 2)  # (kh, kw, O / G, G, C / G)
    # (kh, kw, O / G, C)
    turned = turned.reshape(rows, columns, outputs // groups, groups * inputs)

    # Pad the gradient so that the result has the size of the image.
    padding = []
    for axis in (0, 1):
        pad = geometry.padding[axis]
        reach = geometry.dilation[axis] * (kernel.shape[axis] - 1)
        spread = geometry.stride[axis] * (gradient.shape[1 + axis] - 1)
        before = reach - pad
        after = image_size[axis] - 1 - spread + pad
        padding.append((before, after))

    # `lhs_dilation` puts the stride - 1 zeros between the pixels of the gradient.
    return convolved(
        gradient,
        turned,
        accumulate=accumulate,
        window_strides=(1, 1),
        padding=padding,
        lhs_dilation=geometry.stride,
        rhs_dilation=geometry.dilation,
        feature_group_count=groups,
    )


def kernel_gradient(
    x, gradient, kernel_size: Pair, geometry: Geometry, *, accumulate=None
):
    """The gradient of `plain_conv` with respect to its kernel, (kh, kw, C / groups, O).

    It is the convolution of x with the output's gradient. JAX writes it with another
    order of axes, which XLA's CPU compiler changes to that of its fast kernels only in
    the main computation of a program: inside `lax.cond`, `lax.switch` or a loop, JAX's
    form took 100 times as long. The form here is fast everywhere.

    x: (N, H, W, C).
    gradient: the gradient with respect to the output, (N, H', W', O).
    kernel_size: (kh, kw).
    accumulate: the dtype of the sums; None is x's.
    """
    x, geometry = without_stride(x, geometry)

    # With a stride, the convolution may not read the last pixels: a negative padding
    # leaves them out.
    size = geometry.output_size(x.shape[1:3], kernel_size)  # (H', W')
    padding = []
    for axis in (0, 1):
        begin = geometry.padding[axis]
        reach = geometry.dilation[axis] * (kernel_size[axis] - 1) + 1
        read = geometry.stride[axis] * (size[axis] - 1) + reach
        end = read - x.shape[1 + axis] - begin
        padding.append((begin, end))

    # The axes of images and channels are exchanged, and so are stride and dilation.
    y = convolved(
        x.transpose(3, 1, 2, 0),  # (C, H, W, N)
        gradient.transpose(1, 2, 0, 3),  # (H', W', N, O)
        accumulate=accumulate,
        window_strides=geometry.dilation,
        padding=padding,
        rhs_dilation=geometry.stride,
        batch_group_count=geometry.groups,
    )
    return y.transpose(1, 2, 0, 3)  # (kh, kw, C / groups, O)
