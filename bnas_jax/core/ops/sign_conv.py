"""The convolution of signs: the one primitive that all binarization schemes are made of."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from bnas_jax.core.ops.conv import Geometry, fast_conv, plain_conv
from bnas_jax.core.ops.materialize import materialize
from bnas_jax.core.ops.popcount import pays, sums_of_signs


def sign_conv(after: Callable, geometry: Geometry, x, w, operands=(), *, one_bit: bool = True, dtype=None):
    """`after(sums, *operands)`, where `sums` is the convolution of the signs x with the signs w.

    after: any differentiable function, hashable, as it decides what is compiled.
    x: (N, H, W, C); w: (kh, kw, C / groups, O); sums: (N, H', W', O) in x's dtype.
    one_bit: whether x and w hold -1 and 1 alone. False where zeros are among them, as with PyTorch's sign or dropout.
    dtype: of the gradients' products, None is x's. The sums are exact integers in any.

    Gradients go to x, w and every operand. Stored for them are x, w and the sums as small integers; everything in `after` is
    computed again. Signs are multiplied before any factor, so that a sum of 0 is 0 in every order of summation: with beta
    inside the products, one in ten outputs of a 3x3 convolution of 6 channels is 0 but for rounding, and so is the
    gradient of a ReLU behind it.

    Gradients are first order: the sums carry no derivative of their own.
    """
    return _sign_conv(after, geometry, one_bit, dtype, x, w, tuple(operands))


def plain_sign_conv(after: Callable, geometry: Geometry, x, w, operands=()):
    """`sign_conv` as a composition that JAX differentiates, with sums of floats."""
    return after(plain_conv(x, w, geometry), *operands)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _sign_conv(after, geometry, one_bit, dtype, x, w, operands):
    return after(integer_sums(x, w, geometry, one_bit=one_bit).astype(x.dtype), *operands)


def _forward(after, geometry, one_bit, dtype, x, w, operands):
    sums = integer_sums(x, w, geometry, one_bit=one_bit)
    return after(sums.astype(x.dtype), *operands), (x, w, sums, operands)


def _backward(after, geometry, one_bit, dtype, residuals, gradient):
    x, w, sums, operands = residuals
    # Otherwise XLA makes floats of the sums in the forward pass already, and stores those.
    gradient, sums = materialize((gradient, sums))
    to_sums, *to_operands = jax.vjp(after, sums.astype(x.dtype), *operands)[1](gradient)

    # A convolution is linear in x and in w.
    products = dtype or x.dtype
    composed = lambda x, w: fast_conv(x.astype(products), w.astype(products), geometry)
    to_x, to_w = jax.vjp(composed, x, w)[1](to_sums.astype(products))
    return to_x, to_w, tuple(to_operands)


_sign_conv.defvjp(_forward, _backward)


def integer_sums(x, w, geometry: Geometry, *, one_bit: bool):
    """The convolution of signs as int16, or int32 where sums can be larger: (N, H', W', O)."""
    largest = np.prod(w.shape[:3])
    dtype = jnp.int16 if largest <= np.iinfo(np.int16).max else jnp.int32

    def convolved(x, w):
        return fast_conv(x, w, geometry, accumulate=x.dtype).astype(dtype)

    def counted(x, w):
        # Stored, or XLA would count again for all who read the sums.
        return materialize(sums_of_signs(x, w, geometry).astype(dtype))

    if one_bit and pays(w.shape, geometry):
        return jax.lax.platform_dependent(x, w, cpu=counted, default=convolved)
    return convolved(x, w)
