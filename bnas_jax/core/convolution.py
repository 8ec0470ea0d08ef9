"""Convolutions of floats and of signs, and their gradients. Images are NHWC, kernels HWIO."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bnas_jax.core import binarize
from bnas_jax.core.hold import hold
from bnas_jax.core.popcount import sums_of_signs
from bnas_jax.core.rules import Rules

MIN_COUNTED = 8  # channels: fewer do not fill the words that are counted
MAX_COUNTED = 4096  # signs in a sum: the words are all written out to be compiled, which took 40 s for 40,000


def conv(x, kernel, *, stride=1, padding=0, dilation=1, groups=1, dtype=None):
    """2-D convolution with explicit symmetric zero padding ("SAME" pads differently at stride 2).

    x: (N, H, W, C); kernel: (kh, kw, C / groups, O). dtype: what the factors of all products are rounded to, in the gradients,
    too; sums, and the result, are of x's type.
    """
    geometry = stride, padding, dilation, groups
    if dtype is None:
        return _conv(x, kernel, *geometry)
    return _rounded_conv(x, kernel, geometry, dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _rounded_conv(x, kernel, geometry, dtype):
    """`_conv` of what x and the kernel are in a shorter type. JAX's own gradients would multiply in the longer one."""
    return _conv(x.astype(dtype), kernel.astype(dtype), *geometry, accumulate=x.dtype)


def _rounded_conv_forward(x, kernel, geometry, dtype):
    return _rounded_conv(x, kernel, geometry, dtype), (x.astype(dtype), kernel.astype(dtype))


def _rounded_conv_backward(geometry, dtype, residuals, gradient):
    x, kernel = residuals
    accumulate = gradient.dtype
    gradient = gradient.astype(dtype)
    to_x = _input_gradient(gradient, kernel, x.shape[1:3], *geometry, accumulate=accumulate)
    to_kernel = _kernel_gradient(x, gradient, kernel.shape[:2], *geometry, accumulate=accumulate)
    return to_x, to_kernel


_rounded_conv.defvjp(_rounded_conv_forward, _rounded_conv_backward)


def binary_conv(x, latent, rules: Rules, *, stride=1, padding=0, dilation=1, groups=1, of_signs=False):
    """The convolution of x with `binarize_weights(latent)`; its gradients are those of this composition.

    Forward, the signs are multiplied first and beta afterwards, so that sums of +-1 are exact integers, in bfloat16, too. A sum
    that is 0 then is 0 for every order of summation, and ReLU's gradient there does not hang on rounding: with beta inside
    the sum one in ten outputs of a 3x3 convolution of 6 channels is 0 but for rounding.
    of_signs: x holds nothing but signs, so that the sums can be counted, or multiplied in bfloat16, whatever
    `config.matmul_precision` says; the gradients have floats for one factor and follow that setting.
    """
    return _binary_conv(x, latent, rules, (stride, padding, dilation, groups), of_signs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _binary_conv(x, latent, rules, geometry, of_signs):
    sums = _sums_of_signs(x, latent, rules, geometry) if of_signs else _sums(x, latent, rules, geometry)
    return sums.astype(x.dtype) * binarize.weight_scale(latent)


def _sums(x, latent, rules, geometry, precision=None):
    """The convolution of x with the signs of `latent`. precision: see `general_conv`."""
    dtype = rules.conv_dtype or x.dtype
    signs = binarize.sign(latent, rules.sign_of_zero).astype(dtype)
    return _conv(x.astype(dtype), signs, *geometry, accumulate=x.dtype, precision=precision)


def _sums_of_signs(x, latent, rules, geometry):
    """`_sums` where x holds signs: small integers, of two bytes each where they fit, written to memory once."""
    dtype = jnp.int16 if np.prod(latent.shape[:3]) <= np.iinfo(np.int16).max else jnp.int32
    # A single pass on any accelerator: what it shortens factors to, bfloat16 or TF32, holds signs.
    convolved = lambda x, latent: _sums(x, latent, rules, geometry, jax.lax.Precision.DEFAULT).astype(dtype)
    if not can_count(latent, rules, geometry):
        return convolved(x, latent)
    stride, padding, dilation, _ = geometry
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    # Held, or XLA would count again for all who read the sums.
    counted = lambda x, latent: hold(sums_of_signs(x, latent, **options).astype(dtype))
    return jax.lax.platform_dependent(x, latent, cpu=counted, default=convolved)


def can_count(latent, rules: Rules, geometry) -> bool:
    """Whether one bit holds a sign, and the words to count are full and not too many."""
    groups = geometry[-1]
    fits = latent.shape[2] >= MIN_COUNTED and np.prod(latent.shape[:3]) <= MAX_COUNTED
    return fits and groups == 1 and rules.sign_of_zero == 1


def _binary_conv_forward(x, latent, rules, geometry, of_signs):
    return _binary_conv(x, latent, rules, geometry, of_signs), (x, latent)


def _binary_conv_backward(rules, geometry, of_signs, residuals, gradient):
    del of_signs

    stride, padding, dilation, groups = geometry
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}

    def composed(x, latent):
        kernel = binarize.binarize_weights(latent, rules.weight_gradient, rules.sign_of_zero)
        return conv(x, kernel, **options, dtype=rules.conv_dtype)

    return jax.vjp(composed, *residuals)[1](gradient)


_binary_conv.defvjp(_binary_conv_forward, _binary_conv_backward)


def weighted_edges(y, scale, weights, rules: Rules):
    """What edges of a mixture make of their convolutions, side by side in y: times K, ReLU, times each edge's weight.

    y: (N, H, W, E * C); scale: K, (N, H, W, 1 or E, 1), or None; weights: (E,). Returns (N, H, W, E, C).
    """
    y = y.reshape(*y.shape[:3], len(weights), -1)
    if scale is not None:
        y = y * scale
    return (nn.relu(y) if rules.relu else y) * weights[:, None]


def weighted_binary_conv(
    x, latent, scale, weights, rules: Rules, for_alphas=None, *, stride=1, padding=0, dilation=1, groups=1
):
    """`weighted_edges` of `binary_conv(x, latent)`, x of signs. No gradient flows to `scale`.

    For its gradient it keeps the sums of signs, which are small integers, in two bytes each. Differentiated step by step, XLA
    keeps three arrays of floats of that size: 3.4 GB for a search step of the paper's size, where this takes 1.9.
    for_alphas: see `supernet.Supernet`; where true, the gradient of `latent` is zeros that took no time.
    """
    return _weighted_binary_conv(x, latent, scale, weights, for_alphas, rules, (stride, padding, dilation, groups))


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _weighted_binary_conv(x, latent, scale, weights, for_alphas, rules, geometry):
    del for_alphas
    return weighted_edges(_binary_conv(x, latent, rules, geometry, True), scale, weights, rules)


def _weighted_binary_conv_forward(x, latent, scale, weights, for_alphas, rules, geometry):
    sums, beta = _sums_of_signs(x, latent, rules, geometry), binarize.weight_scale(latent)
    y = weighted_edges(sums.astype(x.dtype) * beta, scale, weights, rules)
    return y, (x, latent, sums, beta, scale, weights, for_alphas)


def _weighted_binary_conv_backward(rules, geometry, residuals, gradient):
    x, latent, sums, beta, scale, weights, for_alphas = residuals
    # Else XLA would make floats of the sums in the forward pass, and keep those.
    gradient, sums = hold((gradient, sums))
    edges = lambda y, weights: weighted_edges(y, scale, weights, rules)
    to_y, to_weights = jax.vjp(edges, sums.astype(gradient.dtype) * beta, weights)[1](gradient)
    to_x, to_latent = _binary_conv_backward(rules, geometry, True, (x, latent), to_y)
    if for_alphas is not None:
        # XLA drops the other gradient of `latent`, which nothing reads.
        wanted = lambda: _latent_gradient(x, latent, to_y, rules, geometry)
        to_latent = jax.lax.cond(for_alphas, lambda: jnp.zeros_like(latent), wanted)
    return to_x, to_latent, jax.tree.map(jnp.zeros_like, scale), to_weights, None


_weighted_binary_conv.defvjp(_weighted_binary_conv_forward, _weighted_binary_conv_backward)


def _latent_gradient(x, latent, gradient, rules, geometry):
    """That of `_binary_conv_backward`, for the inside of a condition."""
    dtype = rules.conv_dtype or gradient.dtype
    kernel = _kernel_gradient(x.astype(dtype), gradient.astype(dtype), latent.shape[:2], *geometry, accumulate=gradient.dtype)
    binarized = lambda latent: binarize.binarize_weights(latent, rules.weight_gradient, rules.sign_of_zero)
    return jax.vjp(binarized, latent)[1](kernel)[0]


def _input_gradient(gradient, kernel, size, stride, padding, dilation, groups, *, accumulate):
    """The gradient of `_conv` at its input of `size`: a convolution of the gradient, its pixels `stride` apart, by the kernel
    turned round. accumulate: type of the sums."""
    height, width, inputs, outputs = kernel.shape
    turned = kernel[::-1, ::-1].reshape(height, width, inputs, groups, outputs // groups)
    turned = turned.transpose(0, 1, 4, 3, 2).reshape(height, width, outputs // groups, groups * inputs)
    ends = []
    for side, length, of_gradient in zip((height, width), size, gradient.shape[1:3], strict=True):
        before = dilation * (side - 1) - padding
        ends.append((before, length - 1 - (of_gradient - 1) * stride + padding))
    return jax.lax.conv_general_dilated(
        gradient,
        turned,
        window_strides=(1, 1),
        padding=ends,
        lhs_dilation=(stride, stride),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        preferred_element_type=accumulate,
    )


def _kernel_gradient(x, gradient, size, stride, padding, dilation, groups, *, accumulate=None):
    """The gradient of `_conv` at its kernel of `size`: a convolution of channels, over images, by the gradient of its result.

    JAX writes the same with its axes in another order. XLA's CPU compiler puts them into the order of its fast kernels in a
    program's main computation alone; inside a condition such a convolution takes 100 times as long.
    accumulate: type of the sums, None is x's.
    """
    stride, padding, dilation, x = _dense_stride(stride, padding, dilation, x)
    # Of the pixels on the far side, strides leave some unread.
    ends = [padding - (n + 2 * padding - dilation * (k - 1) - 1) % stride for n, k in zip(x.shape[1:3], size, strict=True)]
    y = jax.lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        gradient.transpose(1, 2, 0, 3),
        window_strides=(dilation, dilation),
        padding=[(padding, end) for end in ends],
        rhs_dilation=(stride, stride),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        batch_group_count=groups,
        preferred_element_type=accumulate,
    )
    return y.transpose(1, 2, 0, 3)


def _conv(x, kernel, stride, padding, dilation, groups, *, accumulate=None, precision=None):
    """A convolution, by whatever computes it fastest. accumulate, precision: see `general_conv`."""
    if kernel.shape[:2] == (1, 1) and stride == 1 and padding == 0 and groups == 1:
        # A matrix product is 3 to 5 times faster than the convolution on CPU.
        options = {"preferred_element_type": accumulate, "precision": precision}
        return jnp.einsum("nhwi,io->nhwo", x, kernel[0, 0], **options)
    stride, padding, dilation, x = _dense_stride(stride, padding, dilation, x)
    return general_conv(x, kernel, stride, padding, dilation, groups, accumulate=accumulate, precision=precision)


def _dense_stride(stride, padding, dilation, x):
    """(stride, padding, dilation, x) of the same convolution, with stride 1 where its kernel meets every stride-th pixel alone:
    its gradient at the inputs then takes a quarter of the time on CPU."""
    if stride > 1 and dilation % stride == 0 and padding % stride == 0:
        return 1, padding // stride, dilation // stride, x[:, ::stride, ::stride]
    return stride, padding, dilation, x


def general_conv(x, kernel, stride, padding, dilation, groups, *, accumulate=None, precision=None):
    """XLA's convolution as it is. accumulate: type of the sums, None is x's. precision: None is `config.matmul_precision`."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=[(padding, padding)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        preferred_element_type=accumulate,
        precision=precision,
    )
