"""Sums of products of signs by xor and popcount of packed bits (XNOR-Net section 3.2).

A product of two signs is -1 where their bits differ. The sums are the same integers as the convolution's. On CPU, where a
product of floats takes a lane of 32 bits, popcount is two to four times faster (64x32x32x16 to 64 channels, 5x5: 11 ms and
30 on two cores without AVX-512).
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from bnas_jax.core.ops.conv import Geometry

WORD = 32
# Fewer channels do not fill the words.
MIN_CHANNELS = 8
# Signs in a sum: the code for all words is written out, and compiling it took 40 s for 40,000.
MAX_SIGNS = 4096


def pays(kernel_shape: tuple[int, ...], geometry: Geometry) -> bool:
    """Whether a convolution of signs has a form here, with words that are full and not too many.

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
    """The convolution of signs with signs, zeros around the image. Values below 0 are taken as -1, all others as 1.

    x: (N, H, W, C); kernel: (k, k, C, O), square, as is the geometry. Returns (N, H', W', O), int32.
    """
    size, _, channels, features = kernel.shape
    padding = geometry.padding[0]

    # The image as words that C channels fill with the least waste; those of a row of the kernel are joined to 32 bits.
    width = min((32, 16, 8), key=lambda width: channels + -channels % width)
    image = _pack(x < 0, width)  # (N, H, W, words)
    image = jnp.pad(image, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    row = jnp.concatenate(_taps(image, axis=2, size=size, geometry=geometry), axis=-1)
    row = _join(row, width)  # (N, H, W', words)
    rows = _taps(row, axis=1, size=size, geometry=geometry)  # (N, H', W', words) each

    # The kernel in words of the same bits.
    kernel = jnp.pad(kernel < 0, ((0, 0), (0, 0), (0, -channels % width), (0, 0)))
    weights = kernel.reshape(size, -1, features).swapaxes(1, 2)  # (rows, O, bits)
    weights = _pack(weights, WORD)  # (rows, O, words)

    # Around the image there are no signs: no bit may differ there, and no product is part of the sum.
    inside = _inside(x.shape[1:3], size=size, geometry=geometry)  # (H', W', rows, columns)
    taps = inside.sum(axis=(2, 3), dtype=np.int32)
    products = channels * taps[:, :, None]  # (H', W', 1)
    bits = np.repeat(inside, kernel.shape[2], axis=-1)
    missing = -bits.shape[-1] % WORD
    bits = np.pad(bits, ((0, 0), (0, 0), (0, 0), (0, missing)))
    mask = np.packbits(bits, axis=-1, bitorder="little")
    mask = mask.view("<u4").astype(np.uint32)  # (H', W', rows, words)

    # A single sum over all words is one loop to XLA, which keeps the sum in a register.
    differences = []
    for r, word in itertools.product(range(size), range(weights.shape[-1])):
        pixels = rows[r][..., word, None]  # (N, H', W', 1)
        differing = pixels ^ weights[r, :, word]  # (N, H', W', O)
        differences.append(differing & mask[:, :, r, word, None])
    different = sum(map(jax.lax.population_count, differences), start=jnp.uint32(0))
    return products - 2 * different.astype(jnp.int32)


def _taps(image, *, axis: int, size: int, geometry: Geometry) -> list:
    """The pixels of a padded image that each tap of a kernel meets along one axis."""
    stride, dilation = geometry.stride[0], geometry.dilation[0]
    last = image.shape[axis] - dilation * (size - 1)
    taps = []
    for start in range(0, dilation * size, dilation):
        part = jax.lax.slice_in_dim(image, start, start + last, stride=stride, axis=axis)
        taps.append(part)
    return taps


def _inside(shape: tuple[int, int], *, size: int, geometry: Geometry) -> np.ndarray:
    """Whether each tap of the kernel lies inside an image of the shape (H, W): booleans (H', W', rows, columns)."""
    stride, padding, dilation = geometry.stride[0], geometry.padding[0], geometry.dilation[0]
    lines = []
    for length in shape:
        # The pixel that each tap meets, (H', rows) or (W', columns).
        end = length + padding - dilation * (size - 1)
        first = np.arange(-padding, end, stride)
        pixel = first[:, None] + dilation * np.arange(size)
        lines.append((pixel >= 0) & (pixel < length))
    rows, columns = lines
    return rows[:, None, :, None] & columns[None, :, None, :]


def _pack(bits, width: int):
    """(..., C) booleans to (..., C / width) words, the first bit lowest; zeros fill the last word."""
    return _together(bits, count=width, width=1)


def _join(words, width: int):
    """(..., n) words of `width` bits to words of 32 bits, the first one lowest; zeros fill the last word."""
    return _together(words, count=WORD // width, width=width)


def _together(values, *, count: int, width: int):
    """Each `count` neighbours of `width` bits as one number: (..., n) to (..., n / count)."""
    dtype = jnp.dtype(f"uint{count * width}")
    *lead, size = values.shape
    widths = [(0, 0)] * len(lead) + [(0, -size % count)]
    values = jnp.pad(values, widths)
    values = values.reshape(*lead, -1, count).astype(dtype)
    shifts = np.arange(0, count * width, width, dtype=dtype)
    return jnp.sum(values << shifts, axis=-1, dtype=dtype)
