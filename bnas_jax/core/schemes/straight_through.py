"""Signs, and the straight-through estimators that replace their gradient."""

import functools

import jax
import jax.numpy as jnp


def sign(x, sign_of_zero: int = 1):
    """-1 or 1 in x's dtype.

    The sign of 0 is `sign_of_zero`: 1, so that a sign is one bit, or 0 as in PyTorch.
    """
    if sign_of_zero == 0:
        return jnp.sign(x)
    return jnp.where(x >= 0, jnp.ones((), x.dtype), -jnp.ones((), x.dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def straight_through(x, window, sign_of_zero: int = 1):
    """sign(x), of any shape; its gradient with respect to x is gradient * window(x).

    window: a function of x, such as `open_clip`, `closed_clip` and `triangle` below.
        Example: `straight_through(x, open_clip)`.
    sign_of_zero: see `sign`.
    """
    return sign(x, sign_of_zero)


def _forward(x, window, sign_of_zero):
    # The function itself and not `sign`, so that a second derivative has a
    # straight-through estimator, too. Storing x costs no memory: the batch norm that
    # gives x stores it for its own gradient.
    return straight_through(x, window=window, sign_of_zero=sign_of_zero), x


def _backward(window, sign_of_zero, x, gradient):
    # The window may be booleans (a clip) or floats (a slope).
    return (gradient * window(x).astype(gradient.dtype),)


straight_through.defvjp(_forward, _backward)


def open_clip(x):
    """1[|x| < 1], the window of activations (XNOR-Net section 3.2)."""
    return jnp.abs(x) < 1


def closed_clip(x):
    """1[|x| <= 1], the window of weights, and of BinaryNet's activations (its Eq. 4).

    It includes 1 and -1, because clipping leaves some weights at exactly these values.
    """
    return jnp.abs(x) <= 1


def triangle(x):
    """2 - 2|x| where |x| < 1, else 0 (Bi-Real Net section 3.2).

    It is the derivative of a piecewise quadratic approximation of the sign.
    """
    return jnp.maximum(2 - 2 * jnp.abs(x), 0)
