"""3x3 poolings with a border of one pixel. (N, H, W, C) -> (N, ceil(H / stride), ceil(W / stride), C)."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def max_pool(x, stride: int):
    """3x3 max pooling, borders padded with -inf.

    The gradient goes to the first of equal values, row by row, as in PyTorch. One byte stores which of the nine it was;
    XLA's own gradient writes four integers for each value on CPU (64x32x32x16, both passes: 47 ms, here 3).
    """
    return _max_pool_forward(x, stride)[0]


def plain_max_pool(x, stride: int):
    """`max_pool` as Flax has it, with XLA's own gradient."""
    return nn.max_pool(x, (3, 3), (stride, stride), ((1, 1), (1, 1)))


def avg_pool(x, stride: int):
    """3x3 average pooling over the pixels that exist, as in the released code."""
    return nn.avg_pool(x, (3, 3), (stride, stride), ((1, 1), (1, 1)), count_include_pad=False)


def _windows(x, size, stride, fill):
    """The nine values under each window of a `size` output: x, padded by one pixel, shifted."""
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=fill)
    return [
        x[:, i : i + size[0] : stride, j : j + size[1] : stride] for i in range(3) for j in range(3)
    ]


def _max_pool_forward(x, stride):
    values = _windows(x, x.shape[1:3], stride, -jnp.inf)
    best, tap = values[0], jnp.zeros(values[0].shape, jnp.int8)
    for index, value in enumerate(values[1:], 1):
        better = (value > best) | jnp.isnan(value)
        best = jnp.where(better, value, best)
        tap = jnp.where(better, jnp.int8(index), tap)
    return best, (tap, x.shape[1:3])


def _max_pool_backward(stride, residuals, gradient):
    tap, size = residuals
    zero = jnp.zeros((), gradient.dtype)
    if stride > 1:
        # As at stride 1, where the windows in between took nothing.
        spread = [
            (0, 0, 0),
            *(_spread(n, m, stride) for n, m in zip(size, tap.shape[1:3], strict=True)),
            (0, 0, 0),
        ]
        tap = jax.lax.pad(tap, jnp.int8(-1), spread)
        gradient = jax.lax.pad(gradient, zero, spread)
    # A pixel is tap k of the window that lies as far to the other side: the order of the windows backwards.
    taps, gradients = _windows(tap, size, 1, -1), _windows(gradient, size, 1, 0)
    parts = [
        jnp.where(t == 8 - k, g, zero) for k, (t, g) in enumerate(zip(taps, gradients, strict=True))
    ]
    return (sum(parts),)


def _spread(size: int, windows: int, stride: int) -> tuple[int, int, int]:
    """`lax.pad`'s (low, high, interior) that puts `windows` values `stride` apart into `size` places."""
    return 0, size - (windows - 1) * stride - 1, stride - 1


max_pool.defvjp(_max_pool_forward, _max_pool_backward)
