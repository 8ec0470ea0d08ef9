"""`sign_conv`: the convolution of signs, the primitive of all binarization schemes."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.errors import UserError
from bnas_jax.core.ops.conv import conv
from bnas_jax.core.ops.conv_forms import fast_conv, plain_conv
from bnas_jax.core.ops.geometry import Geometry
from bnas_jax.core.ops.materialize import materialize
from bnas_jax.core.ops.packed import Kernel, signs_of
from bnas_jax.core.ops.popcount import pays, sums_of_signs, sums_of_words

# float16 represents every integer up to this one. cuDNN has NHWC convolutions of
# float16 factors, which sum in float32.
LARGEST_OF_HALF = 2048


def convolve_signs(
    after: Callable,
    geometry: Geometry,
    x,
    w,
    operands: tuple,
    *,
    one_bit: bool,
    arithmetic: Arithmetic,
):
    """`sign_conv` in the form that the arithmetic and the kernel need.

    w: signs (kh, kw, C / groups, O), perhaps packed.

    The other arguments are those of `sign_conv`.
    """
    if arithmetic.plain:
        return plain_sign_conv(after, geometry, x=x, w=w, operands=operands)

    # A packed kernel has no gradient.
    convolve: Callable = sign_conv
    if isinstance(w, Kernel):
        convolve = packed_sign_conv
    return convolve(
        after,
        geometry,
        x=x,
        w=w,
        operands=operands,
        one_bit=one_bit,
        dtype=arithmetic.conv_dtype,
    )


def sign_conv(
    after: Callable,
    geometry: Geometry,
    x,
    w,
    operands=(),
    *,
    one_bit: bool = True,
    dtype=None,
):
    """`after(sums, *operands)`, with `sums` the convolution of the signs x and w.

    The signs are multiplied without scales, so that the sums are exact integers in any
    order of summation. If beta were inside the products, a sum that should be 0 (one in
    ten for a 3x3 convolution of 6 channels) would be a tiny number of either sign, and
    rounding would decide whether a following ReLU passes the gradient.

    x, w and every operand have gradients. For these, x, w and the sums (as small
    integers) are stored, and `after` is recomputed. There are only first derivatives,
    since integers have none.

    after: any differentiable function of the sums, (N, H', W', O) in x's dtype, and of
        the operands; hashable, as it decides what is compiled.
    x: (N, H, W, C).
    w: (kh, kw, C / groups, O).
    operands: arrays, such as the scales of the scheme.
    one_bit: whether all values of x and w are -1 or 1. False where some are 0, as with
        PyTorch's sign or dropout.
    dtype: the type of the factors of all products; None is x's. The sums are exact
        integers in any type.
    """
    # `custom_vjp` takes positional arguments, those that are not arrays first.
    return _sign_conv(after, geometry, one_bit, dtype, x, w, tuple(operands))


def plain_sign_conv(after: Callable, geometry: Geometry, x, w, operands=()):
    """`sign_conv` in plain operations that JAX differentiates, with sums of floats."""
    return after(plain_conv(x, signs_of(w, x.dtype), geometry), *operands)


def packed_sign_conv(
    after: Callable,
    geometry: Geometry,
    x,
    w: Kernel,
    operands=(),
    *,
    one_bit: bool = True,
    dtype=None,
):
    """`sign_conv` with a packed kernel, one bit for each weight.

    It has no gradients and stores nothing for them.
    """
    sums = integer_sums(x, w, geometry=geometry, one_bit=one_bit, dtype=dtype)
    return after(sums.astype(x.dtype), *operands)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _sign_conv(after, geometry, one_bit, dtype, x, w, operands):
    return _forward(after, geometry, one_bit, dtype, x, w, operands)[0]


def _forward(after, geometry, one_bit, dtype, x, w, operands):
    x, w = _differentiated_once((x, w))
    sums = integer_sums(x, w, geometry=geometry, one_bit=one_bit, dtype=dtype)
    y = after(sums.astype(x.dtype), *operands)
    return y, (x, w, sums, operands)


def _backward(after, geometry, one_bit, dtype, residuals, gradient):
    x, w, sums, operands = residuals

    # Through `after`, which is recomputed. Without the barrier, XLA would convert the
    # sums to floats in the forward pass, and store these.
    gradient, sums = materialize((gradient, sums))
    _, after_vjp = jax.vjp(after, sums.astype(x.dtype), *operands)
    to_sums, *to_operands = after_vjp(gradient)

    # Through the convolution. Its gradients need only x and w, as it is linear in each.
    _, conv_vjp = jax.vjp(lambda x, w: conv(x, w, geometry=geometry, dtype=dtype), x, w)
    to_x, to_w = conv_vjp(to_sums)
    return to_x, to_w, tuple(to_operands)


_sign_conv.defvjp(_forward, _backward)


@jax.custom_vjp
def _differentiated_once(signs):
    """The identity, which raises `UserError` when it is differentiated.

    The integer sums would silently give a second derivative of 0. A first derivative
    does not differentiate this: it is part of the custom gradient's forward pass.
    """
    return signs


def _refuse(*arguments) -> tuple:
    del arguments
    raise UserError(
        "second derivatives of a binary network need Arithmetic(plain=True), and "
        "reverse mode: jax.jacrev(jax.grad(f)), not jax.hessian(f)"
    )


_differentiated_once.defvjp(_refuse, _refuse)


def integer_sums(x, w, geometry: Geometry, *, one_bit: bool, dtype=None):
    """The convolution of signs, (N, H', W', O), as int16 or int32.

    x: (N, H, W, C).
    w: (kh, kw, C / groups, O), or the same packed.
    one_bit: whether all values of x and w are -1 or 1, as popcount needs it.
    dtype: the type of the factors where they are multiplied; None is x's.
    """
    # The smallest type for the sums: their magnitude is at most the number of terms,
    # kh * kw * C / groups.
    largest = np.prod(w.shape[:3])
    integer = jnp.int32
    if largest <= np.iinfo(np.int16).max:
        integer = jnp.int16
    products = dtype or x.dtype

    # Three forms of the convolution: popcount on CPU, where that is faster; float16 on
    # NVIDIA GPUs; a convolution in the type `products` elsewhere.
    def convolved(x, w, products=products, accumulate=x.dtype):
        # The default precision: a single pass, on accelerators in bfloat16 or TF32,
        # which both represent signs exactly.
        return fast_conv(
            x.astype(products),
            signs_of(w, products).astype(products),
            geometry=geometry,
            accumulate=accumulate,
            precision=jax.lax.Precision.DEFAULT,
        )

    def in_general(x, w):
        return convolved(x, w).astype(integer)

    def by_popcount(x, w):
        # Materialized, or XLA would count again in every consumer of the sums.
        if isinstance(w, Kernel):
            sums = sums_of_words(x, w.words, w.shape, geometry=geometry)
        else:
            sums = sums_of_signs(x, w, geometry=geometry)
        return materialize(sums.astype(integer))

    def by_cudnn(x, w):
        # float16 factors give sums in float16, which must represent them exactly.
        short = jnp.float16 if largest <= LARGEST_OF_HALF else x.dtype
        sums = convolved(x, w, products=short, accumulate=short)
        # Some of cuDNN's algorithms are inexact: round to the nearest integer.
        return jnp.rint(sums).astype(integer)

    # XLA compiles only the form of its platform.
    forms = {"cuda": by_cudnn}
    if one_bit and pays(w.shape, geometry):
        forms["cpu"] = by_popcount
    return jax.lax.platform_dependent(x, w, **forms, default=in_general)
