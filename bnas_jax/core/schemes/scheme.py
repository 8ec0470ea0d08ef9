"""What a binarization scheme is: `Scheme`, the base of all schemes.

A scheme is a frozen dataclass whose fields are its settings (`config.scheme.*`), and
one entry of `schemes.SCHEMES`. It defines the signs of activations and weights, their
straight-through gradients, and what follows the integer sums. Everything else is the
same for all schemes: `convolution.Convolution` calls `convolve`, `binary_conv`
multiplies the signs, and the optimizer applies `latents`.
"""

import dataclasses
import inspect
from typing import Any, ClassVar

import flax.linen as nn
import jax

from bnas_jax.core.checks import choice
from bnas_jax.core.errors import UserError, shown
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
# The arguments that methods get by name; they get all others by position.
_BY_NAME = ("kernel", "geometry")


@dataclasses.dataclass(frozen=True)
class Scheme:
    """The base of all schemes.

    A subclass must define the signs of its weights (`weights`) and what follows the
    sums of products of signs (`after`). All other methods have a default. The default
    gradient of the sign of an activation x passes where |x| < 1.

    sign_of_zero: 1, so that a sign is one bit, or 0 as in PyTorch.
    activation: the function that follows the convolution, one of
        `activations.ACTIVATIONS`.
    stage: `activations` binarizes only the activations, the first stage of two-stage
        training; `all` binarizes the weights, too.

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
    # with more output channels. False where the scheme has parameters for each
    # convolution, which belong to a single edge.
    batches_edges: ClassVar[bool] = True
    # The block of a ResNet that is usual with the scheme, one of
    # `baselines.blocks.BLOCKS`.
    block: ClassVar[str] = "xnor"
    # Whether its paper leaves the shortcuts of ImageNet's ResNet float.
    float_shortcut: ClassVar[bool] = False
    # Whether `signs` gives the signs of activations without parameters of the
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

        In training these are latent weights, in floating point.
        """
        return self.binary and self.stage == "all"

    @property
    def latents(self) -> LatentRule:
        """What the optimizer does to the latent weights; by default nothing."""
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

        A binary scheme needs `BN_FIRST`: a BN comes before the sign.
        """
        return BN_FIRST

    @property
    def bias(self) -> bool:
        """Whether convolutions whose BN has no scale and shift have a bias."""
        return False

    @property
    def width_step(self) -> int:
        """The number that all widths of a network must be multiples of."""
        return 1

    def signs(self, x):
        """The signs of normalised activations, (N, H, W, C), with their gradient.

        They are -1, 1 or, without `one_bit`, 0.
        """
        return straight_through(x, window=open_clip, sign_of_zero=self.sign_of_zero)

    def weights(self, latent) -> tuple[jax.Array, tuple]:
        """(signs, operands) of latent weights (kh, kw, ci, co), with their gradients.

        A subclass must define this method, unless it overrides `kernel`.

        signs: -1, 1 or 0, in the shape of the latent weights.
        operands: a tuple of arrays for `after`, such as beta.
        """
        raise _not_written(self, "weights(self, latent), which returns signs, (beta,)")

    def after(self, sums, *operands):
        """The output before the activation, from the sums of products of signs.

        A subclass must define this method. The output has the shape of the sums, unless
        the scheme overrides `kernel` as well.

        sums: (N, H', W', O), in a float type.
        operands: those of `weights`, then those of `parameters`.
        """
        raise _not_written(self, "after(self, sums, beta), which returns the output")

    def input_scale(self, x, kernel: Pair, geometry: Geometry):
        """A factor of the outputs computed from the real inputs, such as K, or None.

        Returns (N, H', W', 1), or (N, H', W', groups, 1) where there are groups.

        x: (N, H, W, C), normalised.
        """
        del x, kernel, geometry
        return None

    def cost(self, row, module: Any):
        """A convolution's row of the cost table, with the scheme's own cost added.

        row: a `cost.counts.Row`.
        module: the `convolution.Convolution`, which says whether its inputs and
            weights are binary; or the edges of a supernet that are computed together,
            `mixed_edges.MixedEdges`.
        """
        del module
        return row

    def parameters(self, module: nn.Module, output_shape: tuple[int, ...]) -> tuple:
        """Learned operands of `after`, after those of `weights`.

        They are made by `module.param(name, init, shape, dtype)`. A scheme with such
        parameters sets `batches_edges = False`.

        output_shape: (N, H', W', O) of the convolution.
        """
        del module, output_shape
        return ()

    def kernel(self, module: Any, x) -> tuple[jax.Array, tuple]:
        """(signs, operands) of a `convolution.Convolution`, by `weights`.

        A scheme overrides this if its latent weights have another shape, or if it makes
        several kernels of them.

        The signs, (kh, kw, C / groups, outputs), are multiplied with those of x. The
        operands are a tuple of arrays. Both may depend only on parameters, because a
        packed network stores them; x is passed for its shape.
        """
        return self.weights(module.latent(x))

    def convolve(self, module: Any, x):
        """The binary convolution of a `convolution.Convolution`, without its bias.

        (N, H, W, C) to (N, H', W', features).

        A scheme overrides this if the signs of its activations have parameters. The
        method then makes the parameters by `module.param` and takes the signs of the
        weights from `module.binarized`, and the scheme sets `batches_edges = False` and
        `plain_signs = False`.
        """
        convolve = convolve_kernel
        if not module.binary_input:
            convolve = float_input_conv
        signs, operands = module.binarized(x)
        parameters = self.parameters(module, module.output_shape(x))
        return convolve(
            x,
            signs,
            (*operands, *parameters),
            scheme=self,
            geometry=module.geometry,
            arithmetic=module.arithmetic,
            activation=module.activates_sums,
        )

    def convolve_float(self, module: Any, x):
        """`convolve` where the weights stay float.

        That is in the first of two stages, or where the module has
        `binary_weights=False`. A scheme overrides this if its parameters apply to float
        weights as well.
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
    """The error for a method that a subclass must define.

    method: the method's name, its arguments and what it returns.
    """
    return UserError(f"{type(scheme).__name__} lacks a method: write {method}")


def check_scheme(scheme: Any) -> None:
    """Raises `UserError` unless this is a scheme."""
    # A common mistake is a scheme's name, or its class without parentheses.
    if not isinstance(scheme, Scheme):
        raise UserError(f"scheme must be an object such as Xnor(), got {shown(scheme)}")
    check_methods(type(scheme))


def check_methods(kind: type[Scheme]) -> None:
    """Raises `UserError` for a method that cannot take the arguments it is called with.

    Only that of an extension can be wrong.
    """
    for name, method in vars(Scheme).items():
        own = inspect.getattr_static(kind, name)
        if name.startswith("__") or own is method or not inspect.isfunction(own):
            continue
        if not _takes(own, inspect.signature(method)):
            owner = next(cls for cls in kind.__mro__ if name in vars(cls))
            asked = ", ".join(inspect.signature(method).parameters)
            raise UserError(
                f"{owner.__name__}.{name} takes other arguments than a scheme's; write "
                f"{name}({asked})"
            )


def _takes(method: Any, asked: inspect.Signature) -> bool:
    """Whether a method takes the arguments of a signature."""
    # How many operands `after` gets depends on the scheme.
    kinds = [parameter.kind for parameter in asked.parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return True
    by_name = [name for name in asked.parameters if name in _BY_NAME]
    by_position = [name for name in asked.parameters if name not in _BY_NAME]
    try:
        inspect.signature(method).bind(*by_position, **dict.fromkeys(by_name))
    except TypeError:
        return False
    return True
