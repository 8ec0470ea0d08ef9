"""What a binarization scheme is: `Scheme`, the base of all schemes.

A scheme is a frozen dataclass whose fields are its settings (`config.scheme.*`), and
one entry of `schemes.SCHEMES`. It says how activations and weights become signs, with
which gradients, and what comes after the integer sums. Everything else is the same for
all schemes: `convolution.Convolution` calls `convolve`, `binary_conv` multiplies the
signs, the optimizer reads `latents`.
"""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax

from bnas_jax.core.checks import choice
from bnas_jax.core.errors import UserError
from bnas_jax.core.ops.geometry import Geometry, Pair
from bnas_jax.core.schemes.activations import ACTIVATIONS
from bnas_jax.core.schemes.binary_conv import (
    convolve_kernel,
    float_input_conv,
    float_weight_conv,
)
from bnas_jax.core.schemes.latent_rule import LatentRule
from bnas_jax.core.schemes.straight_through import open_clip, straight_through

# `activations`: binary activations with float weights, the first stage of two-stage
# training; `all`: both binary.
STAGES = ("all", "activations")
# BN -> convolution -> activation, or ReLU -> convolution -> BN; see `modules.in_order`.
BN_FIRST, RELU_FIRST = ORDERS = ("bn_first", "relu_first")


@dataclasses.dataclass(frozen=True)
class Scheme:
    """The base of all schemes.

    A scheme adds at least the signs of its weights (`weights`) and what follows the
    sums of products of signs (`after`). All other methods have a default: signs of
    activations are those whose gradient passes where |x| < 1.

    sign_of_zero: 1, so that one bit stores it, or 0 as in PyTorch.
    activation: what follows the convolution, one of `activations.ACTIVATIONS`.
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
        choice("config.scheme.activation", self.activation, choices=ACTIVATIONS)
        choice("config.scheme.stage", self.stage, choices=STAGES)

    @property
    def binary_weights(self) -> bool:
        """Whether the scheme binarizes weights.

        While they are trained, such weights are latent, in floating point.
        """
        return self.binary and self.stage == "all"

    @property
    def latents(self) -> LatentRule:
        """What the optimizer does to the latent weights."""
        return LatentRule()

    def always_zero(self, shape: tuple[int, ...]) -> bool:
        """Whether the projection of `latents` makes all kernels of this shape zero.

        shape: (kh, kw, ci, co).
        """
        del shape
        return False

    @property
    def one_bit(self) -> bool:
        """Whether all signs are -1 or 1, so that popcount may multiply them.

        False where some are 0.
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
        """Whether convolutions whose BN has no scale and shift have a bias."""
        return False

    @property
    def width_step(self) -> int:
        """The number that the widths of a network have to be multiples of."""
        return 1

    def signs(self, x):
        """The signs of normalised activations, (N, H, W, C), with their gradient.

        They are -1, 1 or, without `one_bit`, 0.
        """
        return straight_through(x, window=open_clip, sign_of_zero=self.sign_of_zero)

    def weights(self, latent) -> tuple[jax.Array, tuple]:
        """(signs, operands) of latent weights (kh, kw, ci, co), with their gradients.

        Each scheme has its own; a scheme that overrides `kernel` can do without.

        signs: -1, 1 or 0, in the shape of the latent weights.
        operands: what `after` needs.
        """
        raise _not_written(self, "weights(self, latent), which returns signs, (beta,)")

    def after(self, sums, *operands):
        """The output, before the activation, from the sums of products of signs.

        Each scheme has its own.

        sums: (N, H', W', O).
        operands: those of `weights`, then those of `parameters`.
        """
        raise _not_written(self, "after(self, sums, beta), which returns the output")

    def input_scale(self, x, kernel: Pair, geometry: Geometry):
        """A factor of the outputs that is computed from the real inputs, or None.

        Returns (N, H', W', ..., 1), with groups (N, H', W', groups, 1).
        """
        del x, kernel, geometry
        return None

    def cost(self, row, module: Any):
        """A convolution's row of the cost table, with what the scheme adds to it.

        row: a `cost.counts.Row`.
        module: the `convolution.Convolution`, which says whether its inputs and
            weights are binary; or the edges of a supernet that are computed together,
            `mixed_edges.MixedEdges`.
        """
        del module
        return row

    def parameters(self, module: nn.Module, output_shape: tuple[int, ...]) -> tuple:
        """Further operands of `after` that are learned.

        They are made by `module.param(name, init, shape, dtype)`. A scheme that has any
        sets `batches_edges = False`.

        output_shape: (N, H', W', O) of the convolution.
        """
        del module, output_shape
        return ()

    def kernel(self, module: Any, x) -> tuple[jax.Array, tuple]:
        """(signs, operands) of a `convolution.Convolution`, by `weights`.

        A scheme whose latent weights have another shape, or that makes several kernels
        of them, overrides this.

        The signs, (kh, kw, C / groups, outputs), are multiplied with those of x. The
        operands are a tuple of arrays. Both depend on parameters alone, because a
        packed network stores them; x is there for its shape.
        """
        return self.weights(module.latent(x))

    def convolve(self, module: Any, x):
        """The binary convolution of a `convolution.Convolution`, without its bias.

        (N, H, W, C) to (N, H', W', features).

        A scheme whose signs have parameters overrides this. It makes the parameters by
        `module.param`, takes the signs of its weights from `module.binarized`, and sets
        `batches_edges = False` and `plain_signs = False`.
        """
        convolve = convolve_kernel
        if not module.binary_input:
            convolve = float_input_conv
        signs, operands = module.binarized(x)
        return convolve(
            x,
            signs,
            operands,
            scheme=self,
            geometry=module.geometry,
            arithmetic=module.arithmetic,
            parameters=self.parameters(module, module.output_shape(x)),
            activation=module.activates_sums,
        )

    def convolve_float(self, module: Any, x):
        """`convolve` where the weights stay float.

        They do in the first of two stages, or as `binary_weights` of the module says. A
        scheme whose parameters have a meaning without signs of the weights overrides
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


def _not_written(scheme: Scheme, method: str) -> UserError:
    """What to raise for a method that each scheme has to have.

    method: its name, its arguments and what it returns.
    """
    return UserError(f"{type(scheme).__name__} lacks a method: write {method}")
