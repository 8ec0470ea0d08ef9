"""3x3 poolings with a border of one pixel.

All map (N, H, W, C) to (N, ceil(H / stride), ceil(W / stride), C).
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

KERNEL = (3, 3)
BORDER = ((1, 1), (1, 1))  # of one pixel at each side: PyTorch's `padding=1`
TAPS = KERNEL[0] * KERNEL[1]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def max_pool(x, stride: int):
    """3x3 max pooling, borders padded with -inf.

    Of equal values the first in the window, row by row, gets the gradient, as in
    PyTorch. Its position is stored in one byte. On CPU, XLA's own gradient stores four
    integers for each value, and takes many times as long.

    Where the input is itself pooled, neighbours are often equal but for rounding. Which
    of them gets the gradient then depends on how the compiler computes the input.
    """
    return _max_pool_forward(x, stride)[0]


def plain_max_pool(x, stride: int):
    """`max_pool` by Flax, with XLA's own gradient."""
    return nn.max_pool(x, KERNEL, strides=(stride, stride), padding=BORDER)


def avg_pool(x, stride: int):
    """3x3 average pooling over the pixels that exist, as in the released code."""
    return nn.avg_pool(
        x,
        KERNEL,
        strides=(stride, stride),
        padding=BORDER,
        count_include_pad=False,
    )


def _windows(x, *, image: tuple[int, int], stride: int, fill) -> list:
    """The nine values under each window, (N, H', W', C) each, row by row.

    Each is x, padded by one pixel and shifted.

    image: (H, W) of x.
    """
    height, width = image
    x = jnp.pad(x, ((0, 0), *BORDER, (0, 0)), constant_values=fill)
    shifted = []
    for row in range(KERNEL[0]):
        for column in range(KERNEL[1]):
            rows = slice(row, row + height, stride)
            columns = slice(column, column + width, stride)
            shifted.append(x[:, rows, columns])
    return shifted


def _max_pool_forward(x, stride):
    image = x.shape[1:3]
    values = _windows(x, image=image, stride=stride, fill=-jnp.inf)

    # The largest value so far and which of the nine it was. Only a larger one replaces
    # it, so the first of equal ones stays. A NaN always replaces it, as in PyTorch.
    best = values[0]
    tap = jnp.zeros(best.shape, jnp.int8)  # (N, H', W', C), 0 to 8
    for index, value in enumerate(values[1:], 1):
        better = (value > best) | jnp.isnan(value)
        best = jnp.where(better, value, best)
        tap = jnp.where(better, jnp.int8(index), tap)
    return best, (tap, image)


def _max_pool_backward(stride, residuals, gradient):
    tap, (height, width) = residuals
    zero = jnp.zeros((), gradient.dtype)

    # Reduce a stride to stride 1: the windows in between took no pixel (-1).
    if stride > 1:
        _, rows, columns, _ = tap.shape
        spread = [
            (0, 0, 0),
            _spread(height, rows, stride=stride),
            _spread(width, columns, stride=stride),
            (0, 0, 0),
        ]
        tap = jax.lax.pad(tap, jnp.int8(-1), padding_config=spread)
        gradient = jax.lax.pad(gradient, zero, padding_config=spread)

    # A pixel lies in nine windows: it is tap k of the window that is shifted by the
    # opposite offset, so that `_windows` lists them in the reverse order of taps. The
    # pixel gets the gradient of each window that took it.
    image = (height, width)
    taps = _windows(tap, image=image, stride=1, fill=-1)
    gradients = _windows(gradient, image=image, stride=1, fill=0)
    parts = []
    for index, (taken, part) in enumerate(zip(taps, gradients, strict=True)):
        parts.append(jnp.where(taken == TAPS - 1 - index, part, zero))
    return (sum(parts),)


def _spread(size: int, windows: int, *, stride: int) -> tuple[int, int, int]:
    """`lax.pad`'s (low, high, interior) for values `stride` apart in `size` places.

    windows: how many values there are.
    """
    return 0, size - (windows - 1) * stride - 1, stride - 1


max_pool.defvjp(_max_pool_forward, _max_pool_backward)
