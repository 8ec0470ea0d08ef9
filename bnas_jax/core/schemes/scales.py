"""Scales of kernels of signs: the mean magnitude of the latent weights."""

import jax
import jax.numpy as jnp


def kernel_scale(latent, axes: tuple[int, ...] | None = None):
    """mean |W| over these axes; None is over all.

    The gradient at 0 is 0, as in PyTorch; that of `jnp.abs` is 1 there.
    """
    magnitude = latent * jax.lax.stop_gradient(jnp.sign(latent))
    return jnp.mean(magnitude, axis=axes)


def inverse(scale):
    """1 / scale, and 0 where a scale is 0, as that of a kernel of zeros is.

    Scales are never negative. Of any shape.
    """
    # Nothing is divided by 0, not even in the branch of `where` that is not taken: its
    # gradient would be NaN.
    divisor = jnp.where(scale > 0, scale, 1)
    return jnp.where(scale > 0, 1 / divisor, 0)
