"""The scale of a binary kernel: the mean magnitude of its latent weights."""

import jax
import jax.numpy as jnp


def kernel_scale(latent, axes: tuple[int, ...] | None = None):
    """mean |W| over the given axes, or over all axes for None.

    The gradient at W = 0 is 0, as in PyTorch; that of `jnp.abs` is 1 there.

    latent: W, (kh, kw, ci, co).
    """
    magnitude = latent * jax.lax.stop_gradient(jnp.sign(latent))
    return jnp.mean(magnitude, axis=axes)


def inverse(scale):
    """1 / scale, or 0 where the scale is 0, as for a kernel of zeros.

    scale: of any shape, not negative.
    """
    # Nothing is divided by 0, not even in the branch of `where` that is not taken: its
    # gradient would be NaN.
    divisor = jnp.where(scale > 0, scale, 1)
    return jnp.where(scale > 0, 1 / divisor, 0)
