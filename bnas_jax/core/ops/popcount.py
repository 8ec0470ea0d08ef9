"""Sums of products of signs by xor and popcount of packed bits (XNOR-Net section 3.2).

A product of two signs is -1 where their bits differ. The sums are the same integers as
the convolution's. On CPU, where a product of floats takes a lane of 32 bits, popcount
is two to seven times faster (docs/packed.md).
"""

import functools
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from bnas_jax.core.ops.conv import Geometry
from bnas_jax.core.ops.materialize import materialize

WORD = 32
# Fewer channels do not fill the words.
MIN_CHANNELS = 8
# Signs in a sum: the code for all words is written out, and the time to compile it
# grows with their number.
MAX_SIGNS = 8192


def pays(kernel_shape: tuple[int, ...], geometry: Geometry) -> bool:
    """Whether a convolution of signs has a form here, with words that are full and not
    too many.

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
    """The convolution of signs with signs, zeros around the image.

    Values below 0 are taken as -1, all others as 1.

    x: (N, H, W, C); kernel: (k, k, C, O), square, as is the geometry. Returns (N, H',
    W', O), int32.
    """
    # Stored, or XLA would pack the kernel again at every pixel.
    words = materialize(pack_kernel(kernel))
    return sums_of_words(x, words, kernel.shape, geometry=geometry)


def sums_of_words(x, words, kernel_shape: tuple[int, ...], geometry: Geometry):
    """`sums_of_signs` with a kernel of that shape as the words that `pack_kernel` makes
    of it.
    """
    size, _, channels, _ = kernel_shape
    padding = geometry.padding[0]

    # The words of a pixel's channels, and of the pixels that a row of the kernel meets.
    width = _width(channels)
    image = _packed(x < 0, width)  # (N, H, W, words)
    image = jnp.pad(image, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    row = jnp.concatenate(_taps(image, axis=2, size=size, geometry=geometry), axis=-1)
    row = _joined(row, width)  # (N, H, W', words)
    rows = _taps(row, axis=1, size=size, geometry=geometry)  # (N, H', W', words) each

    # Around the image there are no signs: no bit may differ there, and no product is
    # part of the sum.
    inside = _inside(
        x.shape[1:3], size=size, geometry=geometry
    )  # (H', W', rows, columns)
    taps = inside.sum(axis=(2, 3), dtype=np.int32)
    products = channels * taps[:, :, None]  # (H', W', 1)
    ones = np.repeat(inside, image.shape[-1], axis=-1) * _all_ones(width)
    mask = _joined(ones, width)  # (H', W', rows, words)

    # A single sum over all words is one loop to XLA, which keeps the sum in a register.
    differences = []
    for r, word in itertools.product(range(size), range(words.shape[1])):
        pixels = rows[r][..., word, None]  # (N, H', W', 1)
        differing = pixels ^ words[r, word]  # (N, H', W', O)
        differences.append(differing & mask[:, :, r, word, None])
    different = sum(map(jax.lax.population_count, differences), start=jnp.uint32(0))
    return products - 2 * different.astype(jnp.int32)


def pack_kernel(kernel):
    """A kernel (kh, kw, C, O) as words (kh, words, O); a bit is 1 where it is below 0."""
    width = _width(kernel.shape[2])
    taps = (kernel < 0).transpose(0, 3, 1, 2)  # (kh, O, kw, C)
    words = _packed(taps, width)
    rows = words.reshape(*words.shape[:2], -1)  # (kh, O, words of a row)
    # The outputs last, as the loop over them is the inner one.
    return _joined(rows, width).swapaxes(1, 2)


def unpack_kernel(words, kernel_shape: tuple[int, ...], dtype):
    """The signs, -1 and 1, of a kernel (kh, kw, C, O) from its words: what
    `pack_kernel` took.
    """
    rows, columns, channels, features = kernel_shape
    width = _width(channels)
    of_tap = -(-channels // width)
    joined = words.swapaxes(1, 2)  # (kh, O, words)
    row = _separated(joined, count=WORD // width, width=width)[..., : columns * of_tap]
    taps = row.reshape(rows, features, columns, of_tap)
    bits = _separated(taps, count=width, width=1)[..., :channels]  # (kh, O, kw, C)
    return 1 - 2 * bits.transpose(0, 2, 3, 1).astype(dtype)


def _width(channels: int) -> int:
    """The bits of the words that channels fill with the least waste."""
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
    """Whether each tap of the kernel lies inside an image of the shape (H, W): booleans
    (H', W', rows, columns).
    """
    stride, padding, dilation = (
        geometry.stride[0],
        geometry.padding[0],
        geometry.dilation[0],
    )
    lines = []
    for length in shape:
        # The pixel that each tap meets, (H', rows) or (W', columns).
        end = length + padding - dilation * (size - 1)
        first = np.arange(-padding, end, stride)
        pixel = first[:, None] + dilation * np.arange(size)
        lines.append((pixel >= 0) & (pixel < length))
    rows, columns = lines
    return rows[:, None, :, None] & columns[None, :, None, :]


def _packed(bits, width: int):
    """(..., C) booleans as (..., C / width) words; zeros fill up the channels."""
    return _combined(_padded(bits, width), count=width, width=1)


def _joined(words, width: int):
    """(..., n) words of `width` bits as words of 32 bits; zeros fill up."""
    count = WORD // width
    return _combined(_padded(words, count), count=count, width=width)


def _padded(values, multiple: int):
    """(..., n), with zeros behind so that n is a multiple.

    NumPy's arrays stay such, so that constants are not traced.
    """
    pad: Callable = jnp.pad
    if isinstance(values, np.ndarray):
        pad = np.pad
    widths = [(0, 0)] * (values.ndim - 1) + [(0, -values.shape[-1] % multiple)]
    return pad(values, widths)


def _combined(values, *, count: int, width: int):
    """`count` values of `width` bits as one number: (..., n) to (..., n / count).

    They lie n / count apart, not side by side: the words are neighbours in memory then,
    and made by one instruction.
    """
    dtype = np.dtype(f"uint{count * width}")
    parts = values.reshape(*values.shape[:-1], count, -1).astype(dtype)
    shifts = np.arange(0, count * width, width, dtype=dtype)
    return (parts << shifts[:, None]).sum(axis=-2, dtype=dtype)


def _separated(numbers, *, count: int, width: int):
    """What `_combined` took: (..., n / count) to (..., n)."""
    shifts = np.arange(0, count * width, width, dtype=numbers.dtype)
    ones = numbers.dtype.type(2**width - 1)
    parts = numbers[..., None, :] >> shifts[:, None] & ones  # (..., count, n / count)
    return parts.reshape(*numbers.shape[:-1], -1).astype(f"uint{max(width, 8)}")
