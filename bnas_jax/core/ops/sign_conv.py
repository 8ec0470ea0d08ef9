"""The convolution of signs, the one primitive of all binarization schemes."""

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

# Up to here float16 holds every integer. For float16 factors cuDNN has convolutions in
# the order NHWC, which sum in float32.
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

    Signs are multiplied before any factor, so that sums are exact integers, and 0 is 0
    in every order of summation. With beta inside the products, a sum of 0 (one in ten
    for a 3x3 convolution of 6 channels) becomes a tiny number of either sign, and
    rounding decides whether a ReLU behind it passes the gradient.

    Gradients go to x, w and every operand. Stored for them are x, w and the sums as
    small integers; everything in `after` is computed again. Gradients are first order:
    the sums have no derivative.

    after: any differentiable function of the sums, (N, H', W', O) in x's dtype, and of
        the operands; hashable, as it decides what is compiled.
    x: (N, H, W, C).
    w: (kh, kw, C / groups, O).
    operands: arrays, such as the scales of the scheme.
    one_bit: whether x and w hold -1 and 1 alone. False where zeros are among them, as
        with PyTorch's sign or dropout.
    dtype: the type that the factors of all products are rounded to, None is x's. The
        sums are exact integers in any.
    """
    # Positional, in the order of the custom gradient: arguments that are no arrays come
    # first.
    return _sign_conv(after, geometry, one_bit, dtype, x, w, tuple(operands))


def plain_sign_conv(after: Callable, geometry: Geometry, x, w, operands=()):
    """`sign_conv` as a composition that JAX differentiates, with sums of floats."""
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
    """`sign_conv` with a kernel of one bit a weight.

    It has no gradients: nothing is stored for them.
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

    # Through `after`, which is computed again. Without the barrier XLA makes floats of
    # the sums in the forward pass already, and stores those.
    gradient, sums = materialize((gradient, sums))
    _, after_vjp = jax.vjp(after, sums.astype(x.dtype), *operands)
    to_sums, *to_operands = after_vjp(gradient)

    # Through the convolution. It is linear in x and in w, so that its output, the sums,
    # is not needed.
    _, conv_vjp = jax.vjp(lambda x, w: conv(x, w, geometry=geometry, dtype=dtype), x, w)
    to_x, to_w = conv_vjp(to_sums)
    return to_x, to_w, tuple(to_operands)


_sign_conv.defvjp(_forward, _backward)


@jax.custom_vjp
def _differentiated_once(signs):
    """Signs as they are, which a second derivative refuses in place of a wrong 0.

    The sums are integers, which carry no derivative. A first derivative never comes
    here: `_forward` is part of it.
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
    one_bit: whether x and w hold -1 and 1 alone, so that popcount can count them.
    dtype: of the products, None is x's.
    """
    # The smallest type that holds the sums: none is larger than the number of its
    # terms, kh * kw * C / groups.
    largest = np.prod(w.shape[:3])
    integer = jnp.int32
    if largest <= np.iinfo(np.int16).max:
        integer = jnp.int16
    products = dtype or x.dtype

    # The forms of the convolution: popcount on CPU, where it pays; float16 on NVIDIA's
    # GPUs; elsewhere the type of the products.
    def convolved(x, w, products=products, accumulate=x.dtype):
        # The default precision is a single pass on any accelerator. It rounds factors
        # to bfloat16 or TF32, and both hold signs.
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
        # Stored, or XLA would count again in every consumer of the sums.
        if isinstance(w, Kernel):
            sums = sums_of_words(x, w.words, w.shape, geometry=geometry)
        else:
            sums = sums_of_signs(x, w, geometry=geometry)
        return materialize(sums.astype(integer))

    def by_cudnn(x, w):
        # float16 factors give sums of float16 there, which has to hold them.
        short = jnp.float16 if largest <= LARGEST_OF_HALF else x.dtype
        sums = convolved(x, w, products=short, accumulate=short)
        # Rounded, as some of cuDNN's algorithms only come near an integer.
        return jnp.rint(sums).astype(integer)

    # The compiler takes the form of the platform that it compiles for.
    forms = {"cuda": by_cudnn}
    if one_bit and pays(w.shape, geometry):
        forms["cpu"] = by_popcount
    return jax.lax.platform_dependent(x, w, **forms, default=in_general)
