"""Batch normalization without scale and shift, over one device or all devices of a mapped axis."""

import functools

import jax
import jax.numpy as jnp

from bnas_jax.core.arithmetic import Arithmetic

EPSILON = 1e-5
MOMENTUM = 0.9  # PyTorch's 0.1, from the other side


def initial_statistics(shape: tuple[int, ...], dtype) -> dict[str, jax.Array]:
    """Running statistics before the first batch. shape: (*copies, C)."""
    return {"mean": jnp.zeros(shape, dtype), "var": jnp.ones(shape, dtype)}


def batch_norm(x, running: dict[str, jax.Array], *, arithmetic: Arithmetic, train: bool):
    """(x normalised, running statistics after it), as in PyTorch: the running variance is unbiased.

    x: (N, H, W, C). running: {"mean", "var"}, each (C,), or (*copies, C) where several edges that read x have statistics of
    their own: those are updated alike in training; in evaluation the result is (N, H, W, *copies, C).
    arithmetic: its `bn_axis` is the mapped axis over which statistics are averaged.
    """
    if not train:
        copies = (1,) * (running["mean"].ndim - 1)
        x = x.reshape(x.shape[:-1] + copies + x.shape[-1:])
        return (x - running["mean"]) * jax.lax.rsqrt(running["var"] + EPSILON), running
    axis = arithmetic.bn_axis
    y, mean, var = (plain_normalize if arithmetic.plain else normalize)(x, axis)
    count = x.size // x.shape[-1]
    if axis:
        count = count * jax.lax.axis_size(axis)
    unbiased = var * (count / max(count - 1, 1))
    new = {
        "mean": MOMENTUM * running["mean"] + (1 - MOMENTUM) * mean,
        "var": MOMENTUM * running["var"] + (1 - MOMENTUM) * unbiased,
    }
    return y, new


def plain_normalize(x, axis_name: str | None = None):
    """`normalize`, written as one reads it and differentiated by JAX."""
    mean = _batch_mean(x, axis_name)
    var = _batch_mean(jnp.square(x - mean), axis_name)
    return (x - mean) * jax.lax.rsqrt(var + EPSILON), mean, var


def _batch_mean(x, axis_name):
    mean = jnp.mean(x, axis=(0, 1, 2))
    return jax.lax.pmean(mean, axis_name) if axis_name else mean


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def normalize(x, axis_name: str | None = None):
    """((x - mean) / sqrt(var + epsilon), mean, var), mean and var of the batch over all devices of `axis_name`, (C,).

    x: (N, H, W, C). The gradient is the closed form, which stores the result alone and sums twice, where differentiating
    each operation stores more and sums four times. mean and var are for the running statistics and have no gradient.
    """
    return _normalize_forward(x, axis_name)[0]


def _normalize_forward(x, axis_name):
    mean, var = _moments(x, axis_name)
    factor = jax.lax.rsqrt(var + EPSILON)
    y = (x - mean) * factor
    return (y, mean, var), (y, factor)


def _moments(x, axis_name):
    mean = jnp.mean(x, axis=(0, 1, 2))
    var = jnp.mean(jnp.square(x - mean), axis=(0, 1, 2))
    if not axis_name:
        return mean, var
    # In one message, as latency is what small ones cost: the mean of all squares is that of each device's.
    mean, square = jax.lax.pmean(jnp.stack([mean, var + jnp.square(mean)]), axis_name)
    return mean, jnp.maximum(square - jnp.square(mean), 0)


def _normalize_backward(axis_name, residuals, gradients):
    y, factor = residuals
    gradient = gradients[0]
    mean, along = jnp.mean(gradient, axis=(0, 1, 2)), jnp.mean(gradient * y, axis=(0, 1, 2))
    if axis_name:
        mean, along = jax.lax.pmean(jnp.stack([mean, along]), axis_name)
    return (factor * (gradient - mean - y * along),)


normalize.defvjp(_normalize_forward, _normalize_backward)
