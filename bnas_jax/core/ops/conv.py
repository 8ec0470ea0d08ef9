"""Two-dimensional convolutions with explicit zero padding, and their gradients."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from bnas_jax.core.arithmetic import Arithmetic

Pair = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Geometry:
    """How a kernel moves over an image. Each pair is (rows, columns).

    stride, dilation: in pixels.
    padding: how many zeros on both sides.
    groups: how many groups the input and output channels are divided into.
    """

    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def output_size(self, image: Pair, kernel: Pair) -> Pair:
        """(H', W') of the output for an image and a kernel of the sizes (H, W)."""
        return self._length(image, kernel, axis=0), self._length(image, kernel, axis=1)

    def _length(self, image: Pair, kernel: Pair, *, axis: int) -> int:
        """The length of the output along one axis.

        It is how many places a stride apart the kernel has in the padded image.
        """
        reach = self.dilation[axis] * (kernel[axis] - 1) + 1  # of the dilated kernel
        room = image[axis] + 2 * self.padding[axis] - reach
        return room // self.stride[axis] + 1


def square(
    kernel: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    padding: int | None = None,
    groups: int = 1,
) -> Geometry:
    """The geometry of a square kernel; see `rectangle`."""
    return rectangle(
        (kernel, kernel),
        stride=(stride, stride),
        dilation=dilation,
        padding=padding,
        groups=groups,
    )


def rectangle(
    kernel: Pair,
    *,
    stride: Pair = (1, 1),
    dilation: int = 1,
    padding: int | None = None,
    groups: int = 1,
) -> Geometry:
    """The geometry of a kernel of (rows, columns).

    The padding is symmetric at stride 2 as well, as in PyTorch; XLA's "SAME" is not.

    padding: None keeps the image's size at stride 1, for odd kernels.
    """
    rows, columns = kernel
    if padding is None:
        # Half of what the dilated kernel reaches beyond its centre.
        pads = (dilation * (rows - 1) // 2, dilation * (columns - 1) // 2)
    else:
        pads = (padding, padding)
    return Geometry(
        stride=stride,
        padding=pads,
        dilation=(dilation, dilation),
        groups=groups,
    )


POINT = Geometry()


def conv(x, kernel, geometry: Geometry = POINT, *, dtype=None, plain: bool = False):
    """The convolution of an image with a kernel, (N, H', W', O) in x's dtype.

    x: (N, H, W, C).
    kernel: (kh, kw, C / groups, O).
    dtype: the type that the factors of all products are rounded to, such as bfloat16,
        those of the gradients too; None rounds nothing. Sums have x's dtype; on
        NVIDIA's GPUs they were rounded to the short type first (see `_convolved`).
    plain: XLA's convolution with JAX's gradients, whatever the kernel; without effect
        where `dtype` is given.
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
    """`conv` in the types and the form that an arithmetic asks for."""
    return conv(
        x,
        kernel,
        geometry,
        dtype=arithmetic.conv_dtype,
        plain=arithmetic.plain,
    )


def plain_conv(x, kernel, geometry: Geometry, *, accumulate=None, precision=None):
    """XLA's convolution of an image with a kernel, (N, H', W', O).

    x: (N, H, W, C).
    kernel: (kh, kw, C / groups, O).
    accumulate: dtype of the sums and the result, None is x's.
    precision: None is JAX's setting.
    """
    return _convolved(
        x,
        kernel,
        accumulate=accumulate,
        window_strides=geometry.stride,
        padding=[(pad, pad) for pad in geometry.padding],
        rhs_dilation=geometry.dilation,
        feature_group_count=geometry.groups,
        precision=precision,
    )


def _convolved(x, kernel, *, accumulate, **how):
    """XLA's convolution of NHWC images and HWIO kernels.

    On NVIDIA's GPUs short factors give a result as short, which is then made longer:
    cuDNN sums in float32 and rounds at the end. XLA would otherwise multiply in float32
    there, which it brings to the order NCHW and back around each call.

    accumulate: dtype of the sums and the result, None is x's.
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

    # Factors as long as the sums need no second form.
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
    """A 1x1 convolution as a matrix product of channels, 3 to 5 times faster on CPU."""
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

    It exists where the kernel meets only every stride-th pixel: x is then those pixels.
    Elsewhere both are returned as they are. At stride 1 the gradient with respect to
    the input takes a quarter of the time on CPU.
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


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x, kernel, geometry: Geometry, dtype):
    """The convolution of x and the kernel, both rounded to `dtype` if it is given.

    JAX's own gradients would multiply in the longer type, and are slow inside
    conditions (`kernel_gradient`).
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

    It is a convolution of the output's gradient, whose pixels are set `stride` apart,
    with the kernel turned round.

    gradient: that of the output, (N, H', W', O).
    kernel: (kh, kw, C / groups, O).
    image_size: (H, W) of the input.
    accumulate: dtype of the sums, None is the gradient's.
    """
    rows, columns, inputs, outputs = kernel.shape
    groups = geometry.groups

    # The kernel turned by 180 degrees, inputs and outputs of each group exchanged.
    turned = kernel[::-1, ::-1]
    turned = turned.reshape(rows, columns, inputs, groups, outputs // groups)
    turned = turned.transpose(0, 1, 4, 3, 2)  # (kh, kw, O / G, G, C / G)
    # (kh, kw, O / G, C)
    turned = turned.reshape(rows, columns, outputs // groups, groups * inputs)

    # As many zeros around the gradient as give the image's size back.
    padding = []
    for axis in (0, 1):
        pad = geometry.padding[axis]
        reach = geometry.dilation[axis] * (kernel.shape[axis] - 1)
        spread = geometry.stride[axis] * (gradient.shape[1 + axis] - 1)
        before = reach - pad
        after = image_size[axis] - 1 - spread + pad
        padding.append((before, after))

    # `lhs_dilation` puts the zeros of a stride between the pixels of the gradient.
    return _convolved(
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

    It is a convolution of x with the output's gradient, in a form that stays fast
    inside conditions. JAX writes the same convolution with its axes in another order.
    XLA's CPU compiler brings them into the order of its fast kernels in a program's
    main computation only: inside `lax.cond`, `lax.switch` or a loop it took 100 times
    as long.

    x: (N, H, W, C).
    gradient: that of the output, (N, H', W', O).
    kernel_size: (kh, kw).
    accumulate: dtype of the sums, None is x's.
    """
    x, geometry = without_stride(x, geometry)

    # A stride can leave some pixels at the far side unread: a negative padding there
    # leaves them out.
    size = geometry.output_size(x.shape[1:3], kernel_size)  # (H', W')
    padding = []
    for axis in (0, 1):
        begin = geometry.padding[axis]
        reach = geometry.dilation[axis] * (kernel_size[axis] - 1) + 1
        read = geometry.stride[axis] * (size[axis] - 1) + reach
        end = read - x.shape[1 + axis] - begin
        padding.append((begin, end))

    # Channels are taken as images and images as channels; stride and dilation exchange
    # their places.
    y = _convolved(
        x.transpose(3, 1, 2, 0),  # (C, H, W, N)
        gradient.transpose(1, 2, 0, 3),  # (H', W', N, O)
        accumulate=accumulate,
        window_strides=geometry.dilation,
        padding=padding,
        rhs_dilation=geometry.stride,
        batch_group_count=geometry.groups,
    )
    return y.transpose(1, 2, 0, 3)  # (kh, kw, C / groups, O)
