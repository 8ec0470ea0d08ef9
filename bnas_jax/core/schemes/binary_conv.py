"""The convolution that all schemes share, also with float inputs or float weights.

A scheme makes the signs, says what follows the sums, and calls these functions.
"""

import dataclasses
from typing import Any, Protocol

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.ops.conv import float_conv
from bnas_jax.core.ops.geometry import Geometry, Pair
from bnas_jax.core.ops.packed import signs_of
from bnas_jax.core.ops.sign_conv import convolve_signs
from bnas_jax.core.schemes.activations import ACTIVATIONS


class Binarizer(Protocol):
    """The methods of a scheme that a convolution calls; see `scheme.Scheme`."""

    @property
    def activation(self) -> str: ...

    @property
    def one_bit(self) -> bool: ...

    def signs(self, x): ...

    def weights(self, latent) -> tuple: ...

    def input_scale(self, x, kernel: Pair, geometry: Geometry): ...

    def after(self, sums, *operands): ...


def finish(scheme: Binarizer, y, scale, *, activation: bool):
    """activation(y * scale), in the shape of y.

    y: (N, H', W', ..., O).
    scale: K, (N, H', W', ..., 1), or (N, H', W', groups, 1) for y (N, H', W', O); None
        is 1.
    activation: whether the activation follows.
    """
    # K of Eq. (1): one for each group of output channels, or one for all of them.
    if scale is not None and scale.ndim > y.ndim:
        groups = y.reshape(*scale.shape[:-1], -1)  # (N, H', W', groups, O / groups)
        y = (groups * scale).reshape(y.shape)
    elif scale is not None:
        y = y * scale
    if not activation:
        return y
    return ACTIVATIONS[scheme.activation](y)


@dataclasses.dataclass(frozen=True)
class _After:
    """The function `after` of `sign_conv` for a single convolution.

    It is a dataclass because equal instances compare equal, so that tracing is cached.
    """

    scheme: Binarizer
    activation: bool

    def __call__(self, sums, scale, *operands):
        y = self.scheme.after(sums, *operands)
        return finish(self.scheme, y, scale=scale, activation=self.activation)


def binary_conv(x, latent, *, scheme: Binarizer, **options: Any):
    """The output of a scheme's binary convolution, (N, H', W', O).

    It convolves the signs of x and of the latent weights, and applies `Scheme.after`,
    the input scale and the activation.

    x: normalised activations (N, H, W, C).
    latent: (kh, kw, C / groups, O).
    options: the other arguments of `convolve_kernel`.
    """
    signs, operands = scheme.weights(latent)
    return convolve_kernel(x, signs, operands, scheme=scheme, **options)


def convolve_kernel(
    x,
    kernel,
    operands: tuple,
    *,
    scheme: Binarizer,
    geometry: Geometry,
    arithmetic: Arithmetic,
    activation: bool = True,
):
    """`binary_conv` with the signs and the operands of `Scheme.after`.

    x: normalised activations (N, H, W, C).
    kernel: the signs (kh, kw, C / groups, O), perhaps packed.
    operands: those of `Scheme.weights`, then those of `Scheme.parameters`.
    activation: whether the scheme's activation follows.
    """
    scale = scheme.input_scale(x, kernel=kernel.shape[:2], geometry=geometry)
    # All scales are operands of `after`: only signs are multiplied in the convolution.
    return convolve_signs(
        _After(scheme, activation),
        geometry,
        x=scheme.signs(x),
        w=kernel,
        operands=(scale, *operands),
        one_bit=scheme.one_bit,
        arithmetic=arithmetic,
    )


def convolve_module(module: Any, x, w, operands: tuple):
    """The output of a `convolution.Convolution` for an x that is binarized already.

    x: (N, H, W, C), signs where `module.binary_input`.
    w: signs (kh, kw, C / groups, O).
    operands: those of the scheme's `after`.
    """
    scheme, geometry, arithmetic = module.scheme, module.geometry, module.arithmetic
    activation = module.activates_sums
    if not module.binary_input:
        return float_input_conv(
            x,
            w,
            operands,
            scheme=scheme,
            geometry=geometry,
            arithmetic=arithmetic,
            activation=activation,
        )
    return convolve_signs(
        _After(scheme, activation),
        geometry,
        x=x,
        w=w,
        operands=(None, *operands),  # no input scale
        one_bit=scheme.one_bit,
        arithmetic=arithmetic,
    )


def float_input_conv(
    x,
    kernel,
    operands: tuple,
    *,
    scheme: Binarizer,
    geometry: Geometry,
    arithmetic: Arithmetic,
    activation: bool = True,
):
    """The convolution of float inputs x with the signs of the weights.

    It is used by `reduction_skip="binary_weight"`, a form of the inter-cell skips.

    kernel, operands, activation: see `convolve_kernel`.
    """
    signs = signs_of(kernel, x.dtype)
    # The factors of the weights apply to sums of floats, too. K does not: it scales
    # signs of x.
    sums = float_conv(x, signs, geometry=geometry, arithmetic=arithmetic)
    y = scheme.after(sums, *operands)
    return finish(scheme, y, scale=None, activation=activation)


def float_weight_conv(
    x,
    kernel,
    *,
    scheme: Binarizer,
    geometry: Geometry,
    arithmetic: Arithmetic,
    binary_input: bool,
    activation: bool = True,
):
    """The convolution of the signs of x, or of x itself, with a float kernel.

    It is used by the scheme `float`, in the first of two stages, and for the kernels
    that the released code leaves float by an index error.

    binary_input: whether the signs of x are taken.
    """
    # K scales signs of x; a float x needs no scale.
    scale = None
    if binary_input:
        scale = scheme.input_scale(x, kernel=kernel.shape[:2], geometry=geometry)
        x = scheme.signs(x)
    y = float_conv(x, kernel, geometry=geometry, arithmetic=arithmetic)
    return finish(scheme, y, scale=scale, activation=activation)
