"""Sums of products of signs by xor and popcount of packed bits (XNOR-Net section 3.2).

A product of two signs is -1 where their bits differ, else 1. So a sum of n products is
n - 2 * (the number of bits that differ), the same integer as by a convolution. On CPU,
where a product of floats takes 32 bits of a vector register, popcount takes 0.25 to 0.6
of the time (docs/performance.md).
"""

import functools
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from bnas_jax.core.ops.geometry import Geometry
from bnas_jax.core.ops.materialize import materialize

WORD = 32  # bits
# Fewer channels would leave most bits of a word empty.
MIN_CHANNELS = 8
# The largest number of signs in a sum: the loop over their words is unrolled, and takes
# the longer to compile the more words there are.
MAX_SIGNS = 8192


def pays(kernel_shape: tuple[int, ...], geometry: Geometry) -> bool:
    """Whether popcount is faster for a convolution of signs.

    That holds for a square kernel in one group, with full words and not too many of
    them.

    kernel_shape: (kh, kw, C, O).
    """
    rows, columns, channels, _ = kernel_shape
    if geometry.groups != 1:
        return False
    pairs = (kernel_shape[:2], geometry.stride, geometry.dilation, geometry.padding)
    square = all(first == second for first, second in pairs)
    fits = channels >= MIN_CHANNELS and rows * columns * channels <= MAX_SIGNS
    return fits and square


@functools.partial(jax.jit, static_argnums=(2,))
def sums_of_signs(x, kernel, geometry: Geometry):
    """The convolution of signs with signs, (N, H', W', O) int32.

    Values below 0 are taken as -1, all others as 1. Zeros surround the image.

    x: (N, H, W, C).
    kernel: (k, k, C, O), square, as is the geometry.
    """
    # Materialized, or XLA would pack the kernel again for every pixel.
    words = materialize(pack_kernel(kernel))
    return sums_of_words(x, words, kernel.shape, geometry=geometry)


def sums_of_words(x, words, kernel_shape: tuple[int, ...], geometry: Geometry):
    """`sums_of_signs` of a kernel that is packed already.

    x: (N, H, W, C).
    words: (k, words, O), as `pack_kernel` makes them.
    kernel_shape: (k, k, C, O) of the kernel.
    """
    size, _, channels, _ = kernel_shape
    padding = geometry.padding[0]

    # The words of each pixel's channels.
    width = _width(channels)
    image = _packed(x < 0, width)  # (N, H, W, words of a pixel)
    image = jnp.pad(image, ((0, 0), (padding, padding), (padding, padding), (0, 0)))

    # The words of the pixels that each row of the kernel meets.
    columns = _taps(image, axis=2, size=size, geometry=geometry)
    row = jnp.concatenate(columns, axis=-1)  # (N, H, W', words of a row's pixels)
    row = _joined(row, width)  # (N, H, W', words)
    rows = _taps(row, axis=1, size=size, geometry=geometry)  # (N, H', W', words) each

    # Zero padding has no signs: its products are not part of the sum.
    inside = _inside(x.shape[1:3], size=size, geometry=geometry)  # (H', W', k, k)
    taps = inside.sum(axis=(2, 3), dtype=np.int32)
    products = channels * taps[:, :, None]  # (H', W', 1)

    # Nor may its bits count as different: the mask is 1 for bits inside the image.
    ones = np.repeat(inside, image.shape[-1], axis=-1) * _all_ones(width)
    mask = _joined(ones, width)  # (H', W', k, words)

    # The bits that differ, word by word. XLA compiles the single sum over all words to
    # one loop, which keeps the sum in a register.
    differences = []
    for r, word in itertools.product(range(size), range(words.shape[1])):
        pixels = rows[r][..., word, None]  # (N, H', W', 1)
        differing = pixels ^ words[r, word]  # (N, H', W', O)
        differences.append(differing & mask[:, :, r, word, None])
    different = sum(map(jax.lax.population_count, differences), start=jnp.uint32(0))
    return products - 2 * different.astype(jnp.int32)


def pack_kernel(kernel):
    """A kernel (kh, kw, C, O) as words (kh, words, O): 1 bits are values below 0."""
    width = _width(kernel.shape[2])
    taps = (kernel < 0).transpose(0, 3, 1, 2)  # (kh, O, kw, C)
    words = _packed(taps, width)  # (kh, O, kw, words of a tap)
    rows = words.reshape(*words.shape[:2], -1)  # (kh, O, words of a row)
    # The outputs last, as the innermost loop runs over them.
    return _joined(rows, width).swapaxes(1, 2)


def unpack_kernel(words, kernel_shape: tuple[int, ...], dtype):
    """The signs -1 and 1, (kh, kw, C, O), from the words of `pack_kernel`.

    kernel_shape: (kh, kw, C, O) of the kernel.
    """
    rows, columns, channels, features = kernel_shape
    width = _width(channels)
    of_tap = -(-channels // width)  # words of `width` bits for the channels of a tap

    # The steps of `pack_kernel` in reverse, dropping the zeros that it padded with.
    joined = words.swapaxes(1, 2)  # (kh, O, words)
    row = _separated(joined, count=WORD // width, width=width)[..., : columns * of_tap]
    taps = row.reshape(rows, features, columns, of_tap)
    bits = _separated(taps, count=width, width=1)[..., :channels]  # (kh, O, kw, C)

    # A bit of 0 is the sign 1, a bit of 1 the sign -1.
    return 1 - 2 * bits.transpose(0, 2, 3, 1).astype(dtype)


def _width(channels: int) -> int:
    """The word size (32, 16 or 8 bits) that leaves the fewest bits empty."""
    return min((32, 16, 8), key=lambda width: channels + -channels % width)


def _all_ones(width: int) -> np.generic:
    """The word whose bits are all 1."""
    return np.dtype(f"uint{width}").type(2**width - 1)


def _taps(image, *, axis: int, size: int, geometry: Geometry) -> list:
    """The pixels of a padded image that each tap of a kernel meets along one axis."""
    stride, dilation = geometry.stride[0], geometry.dilation[0]
    last = image.shape[axis] - dilation * (size - 1)
    taps = []
    for start in range(0, dilation * size, dilation):
        part = jax.lax.slice_in_dim(
            image, start, start + last, stride=stride, axis=axis
        )
        taps.append(part)
    return taps


def _inside(shape: tuple[int, int], *, size: int, geometry: Geometry) -> np.ndarray:
    """Whether each tap of the kernel lies inside the image, for each output.

    Returns booleans (H', W', rows, columns). shape: (H, W) of the image.
    """
    stride, dilation = geometry.stride[0], geometry.dilation[0]
    padding = geometry.padding[0]
    lines = []
    for length in shape:
        # The pixel that each tap meets: (H', rows) or (W', columns).
        end = length + padding - dilation * (size - 1)
        first = np.arange(-padding, end, stride)
        pixel = first[:, None] + dilation * np.arange(size)
        lines.append((pixel >= 0) & (pixel < length))

    # A tap is inside if both its row and its column are.
    rows, columns = lines
    return rows[:, None, :, None] & columns[None, :, None, :]


def _packed(bits, width: int):
    """(..., C) booleans as (..., C / width) words, padded with zeros."""
    return _combined(_padded(bits, width), count=width, width=1)


def _joined(words, width: int):
    """(..., n) words of `width` bits as words of 32 bits, padded with zeros."""
    count = WORD // width
    return _combined(_padded(words, count), count=count, width=width)


def _padded(values, multiple: int):
    """Values (..., n), padded with zeros at the end so that `multiple` divides n.

    A NumPy array gives a NumPy array, so that constants are not traced.
    """
    pad: Callable = jnp.pad
    if isinstance(values, np.ndarray):
        pad = np.pad
    widths = [(0, 0)] * (values.ndim - 1) + [(0, -values.shape[-1] % multiple)]
    return pad(values, widths)


def _combined(values, *, count: int, width: int):
    """`count` values of `width` bits as one number: (..., n) to (..., n / count).

    The values that make a number are n / count apart, not adjacent: so neighbouring
    numbers come from neighbouring values, and vector instructions combine them.
    """
    dtype = np.dtype(f"uint{count * width}")
    parts = values.reshape(*values.shape[:-1], count, -1).astype(dtype)
    shifts = np.arange(0, count * width, width, dtype=dtype)  # (count,)
    return (parts << shifts[:, None]).sum(axis=-2, dtype=dtype)


def _separated(numbers, *, count: int, width: int):
    """The inverse of `_combined`: (..., n / count) to (..., n)."""
    shifts = np.arange(0, count * width, width, dtype=numbers.dtype)  # (count,)
    ones = numbers.dtype.type(2**width - 1)
    parts = numbers[..., None, :] >> shifts[:, None] & ones  # (..., count, n / count)
    return parts.reshape(*numbers.shape[:-1], -1).astype(f"uint{max(width, 8)}")
