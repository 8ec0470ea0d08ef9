"""What a binarization scheme is, and the convolution that all schemes share.

A scheme is a frozen dataclass whose fields are its settings (`config.scheme.*`) and one
entry of `schemes.SCHEMES`. It says how activations and weights become signs, with which
gradients, and what comes after the integer sums. Everything else is the same for all:
`sign_conv` multiplies, the modules call `binary_conv`, the optimizer reads `latents`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.errors import UserError
from bnas_jax.core.ops.conv import Geometry, Pair, conv
from bnas_jax.core.ops.packed import Kernel, signs_of
from bnas_jax.core.ops.sign_conv import packed_sign_conv, plain_sign_conv, sign_conv
from bnas_jax.core.schemes.straight_through import open_clip, straight_through


def clip(y):
    """y clipped to [-1, 1]: the activation of Bi-Real Net's float pretraining, last
    stage (any shape).
    """
    return jnp.clip(y, min=-1, max=1)


def leaky_clip(y):
    """`clip` with slope 0.1 outside [-1, 1]: that pretraining's second stage (any
    shape).
    """
    within = jnp.abs(y) <= 1
    return jnp.where(within, y, 0.1 * y + 0.9 * jnp.sign(y))


# What follows the sums. A PReLU has a parameter, so that `modules.Convolution` adds it
# and nothing is done here.
ACTIVATIONS = {
    "relu": nn.relu,
    "none": lambda y: y,
    "prelu": lambda y: y,
    "clip": clip,
    "leaky_clip": leaky_clip,
}
# `activations`: binary activations with float weights, the first stage of two-stage
# training; `all`: both binary.
STAGES = ("all", "activations")

# BN -> convolution -> activation, or ReLU -> convolution -> BN; see
# `modules.BinaryConv`.
BN_FIRST, RELU_FIRST = ORDERS = ("bn_first", "relu_first")


@dataclasses.dataclass(frozen=True)
class LatentRule:
    """What the optimizer does to latent weights. None leaves them as they are.

    factor: a latent kernel's shape (kh, kw, ci, co) to the number that multiplies its
    gradient, before weight decay.
    project: latent weights to latent weights, at the start and after each update.
    gradients: (the parameters of a module that has latent weights, their gradients, the
    learning rate) to the gradients that
        the optimizer is given, all by name.
    rates: names of further parameters of such a module to their learning rates, in
    units of the others'.

    XNOR-Net's, for a kernel of 3x3 with 64 inputs, and a rule that clips alone:

    >>> bnas.Xnor().latents.factor((3, 3, 64, 64))
    567.0
    >>> rule = bnas.LatentRule(project=lambda latent: latent.clip(-1, 1))
    """

    factor: Callable[[tuple[int, ...]], float] | None = None
    project: Callable[[jax.Array], jax.Array] | None = None
    gradients: Callable[[Mapping, Mapping, jax.Array], Mapping] | None = None
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Scheme:
    """The base of all schemes: signs of activations, whose gradient passes where |x| <
    1.

    A scheme adds at least the signs of its weights (`weights`) and what follows the
    sums of products of signs (`after`); all other methods have a default.

    sign_of_zero: 1, so that one bit stores it, or 0 as in PyTorch. activation: after
    the convolution, of `ACTIVATIONS`.
    stage: `activations`: binary activations with float weights, the first stage of
    two-stage training; `all`: both binary.

    >>> scheme = bnas.SCHEMES["bireal"](stage="activations")
    >>> scheme.binary_weights
    False
    """

    sign_of_zero: int = 1
    activation: str = "relu"
    stage: str = "all"

    # Whether it binarizes at all.
    binary: ClassVar[bool] = True
    # Whether the convolutions of all edges that leave a state can be computed as one
    # with more output channels. Not where a convolution has parameters of the scheme,
    # as these belong to one edge.
    batches_edges: ClassVar[bool] = True
    # The block of a ResNet that is usual with the scheme, one of
    # `baselines.blocks.BLOCKS`.
    block: ClassVar[str] = "xnor"
    # Whether its paper leaves the shortcuts of ImageNet's ResNet float.
    float_shortcut: ClassVar[bool] = False
    # Whether `signs` alone makes the signs of activations, without parameters of a
    # convolution.
    plain_signs: ClassVar[bool] = True

    # Subclasses that check further settings call this first.
    def __post_init__(self):
        if self.sign_of_zero not in (0, 1):
            raise UserError(
                f"config.scheme.sign_of_zero must be 0 or 1, got {self.sign_of_zero}"
            )
        if self.activation not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise UserError(
                f"config.scheme.activation must be one of {known}, got "
                f"{self.activation!r}"
            )
        if self.stage not in STAGES:
            raise UserError(
                f"config.scheme.stage must be one of {', '.join(STAGES)}, got "
                f"{self.stage!r}"
            )

    @property
    def binary_weights(self) -> bool:
        """Whether the scheme binarizes weights, which are latent in floating point
        while they are trained.
        """
        return self.binary and self.stage == "all"

    @property
    def latents(self) -> LatentRule:
        """What the optimizer does to the latent weights."""
        return LatentRule()

    def always_zero(self, shape: tuple[int, ...]) -> bool:
        """Whether the projection of `latents` makes all kernels of this shape, (kh, kw,
        ci, co), zero.
        """
        del shape
        return False

    @property
    def one_bit(self) -> bool:
        """Whether all signs are -1 or 1, so that popcount may multiply them; False
        where some are 0.
        """
        return self.sign_of_zero == 1

    @property
    def order(self) -> str:
        """The order of BN, convolution and activation, one of `ORDERS`.

        Signs need a BN in front of them.
        """
        return BN_FIRST

    @property
    def bias(self) -> bool:
        """Whether a convolution has a bias where the BN around it has no scale and
        shift.
        """
        return False

    @property
    def width_step(self) -> int:
        """The number that the widths of a network have to be multiples of."""
        return 1

    def signs(self, x):
        """The signs of normalised activations, (N, H, W, C), with their gradient: -1, 1
        or, without `one_bit`, 0.
        """
        return straight_through(x, window=open_clip, sign_of_zero=self.sign_of_zero)

    def weights(self, latent) -> tuple[jax.Array, tuple]:
        """(signs, operands) of latent weights (kh, kw, ci, co), with their gradients;
        each scheme has its own.

        signs: -1, 1 or 0, in the same shape. operands: what `after` needs. A scheme
        that overrides `kernel` can do without.
        """
        raise NotImplementedError

    def after(self, sums, *operands):
        """The output, before the activation, from the sums (N, H', W', O) of products
        of signs; each scheme has its own.

        operands: those of `weights`, then those of `parameters`.
        """
        raise NotImplementedError

    def input_scale(self, x, kernel: Pair, geometry: Geometry):
        """A factor of the outputs from the real inputs, or None: (N, H', W', ..., 1),
        with groups (N, H', W', groups, 1).
        """
        del x, kernel, geometry
        return None

    def cost(self, row, module: Any):
        """A convolution's row of the cost table (`cost.counts.Row`), changed to what
        the scheme makes of it.

        module: the `modules.Convolution`, which says whether its inputs and weights are
        binary; or the edges of a supernet that are computed together,
        `mixed_edges.MixedEdges`.
        """
        del module
        return row

    def parameters(self, module: nn.Module, output_shape: tuple[int, ...]) -> tuple:
        """Further operands of `after` that are learned: made by `module.param(name,
        init, shape, dtype)`.

        output_shape: (N, H', W', O) of the convolution. A scheme that has any sets
        `batches_edges = False`.
        """
        del module, output_shape
        return ()

    def kernel(self, module: Any, x) -> tuple[jax.Array, tuple]:
        """(signs, operands) of a `modules.Convolution`: `weights` of its latent
        weights.

        A scheme whose latent weights have another shape, or that makes several kernels
        of them, overrides this; the signs are what is multiplied, (kh, kw, C / groups,
        outputs). They depend on parameters alone (x is there for its shape), and
        operands is a tuple of arrays: a packed network stores both.
        """
        return self.weights(module.latent(x))

    def convolve(self, module: Any, x):
        """The binary convolution of a `modules.Convolution`, (N, H, W, C) to (N, H',
        W', features), without its bias.

        A scheme whose signs have parameters overrides this, makes what it needs by
        `module.param`, and sets `batches_edges = False`.
        The signs of its weights it takes from `module.binarized`.
        """
        convolve = convolve_kernel
        if not module.binary_input:
            convolve = float_input_conv
        return convolve(
            x,
            *module.binarized(x),
            scheme=self,
            geometry=module.geometry,
            arithmetic=module.arithmetic,
            parameters=self.parameters(module, module.output_shape(x)),
            activation=module.activates_sums,
        )

    def convolve_float(self, module: Any, x):
        """As `convolve`, where the weights stay float: in the first of two stages, or
        as `binary_weights` says.

        A scheme whose parameters have a meaning without signs of the weights overrides
        this, too.
        """
        return float_weight_conv(
            x,
            module.float_kernel(x),
            scheme=self,
            geometry=module.geometry,
            arithmetic=module.arithmetic,
            binary_input=module.binary_input,
            activation=module.activates_sums,
        )


def finish(scheme: Scheme, y, scale, *, activation: bool):
    """Times the input scale, where there is one, then the scheme's activation, where
    wanted.

    Returns the shape of y.

    scale: (N, H', W', ..., 1), or (N, H', W', groups, 1) for y (N, H', W', O).
    """
    # A scale for each group of output channels, or one for all.
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
    """`sign_conv`'s function of the sums for a single convolution.

    Equal ones compare equal, so that tracing is cached.
    """

    scheme: Scheme
    activation: bool

    def __call__(self, sums, scale, *operands):
        y = self.scheme.after(sums, *operands)
        return finish(self.scheme, y, scale=scale, activation=self.activation)


def binary_conv(x, latent, *, scheme: Scheme, **options: Any):
    """Signs of x with signs of the latent weights, and what the scheme does after the
    sums.

    x: normalised activations (N, H, W, C); latent: (kh, kw, C / groups, O). options:
    the other arguments of `convolve_kernel`.
    """
    signs, operands = scheme.weights(latent)
    return convolve_kernel(x, signs, operands, scheme=scheme, **options)


def convolve_kernel(
    x,
    kernel,
    operands: tuple,
    *,
    scheme: Scheme,
    geometry: Geometry,
    arithmetic: Arithmetic,
    parameters: tuple = (),
    activation: bool = True,
):
    """`binary_conv` with what `Scheme.weights` makes of the latent weights.

    kernel: signs (kh, kw, C / groups, O), perhaps packed. parameters: those of
    `Scheme.parameters`.
    """
    scale = scheme.input_scale(x, kernel=kernel.shape[:2], geometry=geometry)
    # All factors are operands of `after`, so that the products are of signs alone.
    return convolve_signs(
        _After(scheme, activation),
        x=scheme.signs(x),
        w=kernel,
        operands=(scale, *operands, *parameters),
        scheme=scheme,
        geometry=geometry,
        arithmetic=arithmetic,
    )


def convolve_signs(
    after: Callable,
    x,
    w,
    operands: tuple,
    *,
    scheme: Scheme,
    geometry: Geometry,
    arithmetic: Arithmetic,
):
    """`sign_conv` of the signs x, (N, H, W, C), and w, (kh, kw, C / groups, O), in the
    given arithmetic: what `after` makes of the sums. w may be packed.
    """
    if arithmetic.plain:
        return plain_sign_conv(after, geometry, x=x, w=w, operands=operands)
    convolve: Callable = sign_conv
    if isinstance(w, Kernel):
        convolve = packed_sign_conv
    return convolve(
        after,
        geometry,
        x=x,
        w=w,
        operands=operands,
        one_bit=scheme.one_bit,
        dtype=arithmetic.conv_dtype,
    )


def convolve_module(module: Any, x, w, operands: tuple):
    """The output of a `modules.Convolution` whose scheme makes the signs of x by
    itself.

    x: (N, H, W, C), signs where `module.binary_input`. w, operands: (kh, kw, C /
    groups, O), and those of the scheme's `after`.
    """
    common: dict[str, Any] = {
        "scheme": module.scheme,
        "geometry": module.geometry,
        "arithmetic": module.arithmetic,
    }
    if not module.binary_input:
        return float_input_conv(
            x, w, operands, activation=module.activates_sums, **common
        )
    after = _After(module.scheme, module.activates_sums)
    # Without an input scale.
    return convolve_signs(after, x=x, w=w, operands=(None, *operands), **common)


def float_input_conv(
    x,
    kernel,
    operands: tuple,
    *,
    scheme: Scheme,
    geometry: Geometry,
    arithmetic: Arithmetic,
    parameters: tuple = (),
    activation: bool = True,
):
    """x as it is with signs of the weights: one of the inter-cell skips
    (`reduction_skip="binary_weight"`).

    kernel, operands: see `convolve_kernel`.
    """
    signs = signs_of(kernel, x.dtype)
    dtype, plain = arithmetic.conv_dtype, arithmetic.plain
    # The factors of the weights apply to sums of floats, too; K, which scales signs of
    # x, does not.
    sums = conv(x, signs, geometry=geometry, dtype=dtype, plain=plain)
    y = scheme.after(sums, *operands, *parameters)
    return finish(scheme, y, scale=None, activation=activation)


def float_weight_conv(
    x,
    kernel,
    *,
    scheme: Scheme,
    geometry: Geometry,
    arithmetic: Arithmetic,
    binary_input: bool,
    activation: bool = True,
):
    """A float kernel on signs of x, as the released code's index error leaves some, or
    on x as it is.
    """
    dtype, plain = arithmetic.conv_dtype, arithmetic.plain
    # K scales signs of x; x as it is needs none.
    scale = None
    if binary_input:
        scale = scheme.input_scale(x, kernel=kernel.shape[:2], geometry=geometry)
        x = scheme.signs(x)
    y = conv(x, kernel, geometry=geometry, dtype=dtype, plain=plain)
    return finish(scheme, y, scale=scale, activation=activation)
