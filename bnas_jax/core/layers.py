"""The layer types that an edge can be: `LAYERS`, the one table of them.

A new layer type is a new entry. The entry makes the module of an edge and says how many
convolutions the module has. The cost needs no entry: see `cost.walk`.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar, Protocol

import flax.linen as nn
import jax

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import ZEROISE, Edge, Genotype, edges
from bnas_jax.core.layer_modules import (
    Crossed,
    Identity,
    MobiNet,
    Pooling,
    Separable,
    Zeroise,
)
from bnas_jax.core.modules import BinaryConv, FactorizedReduce
from bnas_jax.core.ops.pool import avg_pool, max_pool, plain_max_pool
from bnas_jax.core.schemes.scheme import Scheme

# How a supernet computes the edges of one layer type that leave one state; see
# `LayerType.batching`.
CONVOLUTION, POOLING, NOTHING, COPIES = "convolution", "pooling", "nothing", "copies"


class LayerType(Protocol):
    """An entry of `LAYERS`.

    learnable: whether the layer type has weights to learn (section 4.3).
    batching: how a supernet computes this layer type together on all E edges that leave
        one state (`shared_edges`).

    The values of `batching`:

    - `CONVOLUTION`: as one convolution with the channels of all edges. The type's
      module must be that of `BinaryConvType`.
    - `POOLING`: as one pooling. Each edge multiplies its output by the edge's weight.
      The type's module must be that of `PoolingType`.
    - `NOTHING`: the output is zeros, so that nothing is computed.
    - `COPIES`: as one module, `module(copies=E)`, with E times the channels: each edge
      has its own part of the channels.
    - None: each edge has a module of its own. This works for every layer type.

    An entry may also have a `channel_step`, see `channel_step_of`.

    >>> bnas.LAYERS["bin_dil_conv_5x5"]
    BinaryConvType(kernel=5, dilation=2)
    >>> bnas.LAYERS["bin_dil_conv_5x5"].num_convs(stride=1)
    1
    """

    @property
    def learnable(self) -> bool: ...

    @property
    def batching(self) -> str | None: ...

    def num_convs(self, stride: int) -> int:
        """The number of convolutions with weights in the module of this stride."""

    def module(
        self,
        *,
        features: int,
        stride: int,
        scheme: Scheme,
        arithmetic: Arithmetic,
        search: bool,
        binary_weights: bool,
        name: str,
    ) -> nn.Module:
        """The module of an edge, called as `module(x, train=train)`.

        It maps (N, H, W, C) to (N, H / stride, W / stride, features).

        search: True in the supernet, where BN has no scale and shift, as in DARTS: a
            learned scale would compete with alpha.
        binary_weights: False keeps the weights float, as the released code's index
            error does.
        name: the module's name.
        """


@dataclasses.dataclass(frozen=True)
class BinaryConvType:
    """BN -> sign -> k x k convolution, dilated or not (Table 3).

    kernel: k.
    dilation: in pixels.
    """

    kernel: int
    dilation: int = 1
    learnable: ClassVar[bool] = True
    batching: ClassVar[str | None] = CONVOLUTION

    def num_convs(self, stride: int) -> int:
        """One."""
        del stride
        return 1

    def module(self, *, search, **fields):
        """A `BinaryConv`."""
        return BinaryConv(
            kernel=self.kernel,
            dilation=self.dilation,
            affine=not search,
            **fields,
        )


@dataclasses.dataclass(frozen=True)
class PoolingType:
    """3x3 pooling; in the search, a BN follows it (`forms.Form`).

    function: (x, stride) -> the pooled x.
    plain: the same function with JAX's own gradient, for `Arithmetic.plain`; None where
        `function` has no custom gradient.
    """

    function: Callable[[jax.Array, int], jax.Array]
    plain: Callable[[jax.Array, int], jax.Array] | None = None
    learnable: ClassVar[bool] = False
    batching: ClassVar[str | None] = POOLING

    def num_convs(self, stride: int) -> int:
        """Zero: a pooling has no weights."""
        del stride
        return 0

    def form(self, arithmetic: Arithmetic) -> Callable[[jax.Array, int], jax.Array]:
        """The function of (x, stride) to use in this arithmetic."""
        if arithmetic.plain and self.plain is not None:
            return self.plain
        return self.function

    def module(
        self,
        *,
        stride,
        arithmetic,
        search,
        name,
        batch_norm: bool | None = None,
        **fields,
    ):
        """A `Pooling`.

        batch_norm: whether a BN follows; by default only in the search.
        """
        # A pooling has no weights: features, scheme and binary_weights do not matter.
        del fields
        if batch_norm is None:
            batch_norm = search
        return Pooling(
            function=self.form(arithmetic),
            stride=stride,
            arithmetic=arithmetic,
            batch_norm=batch_norm,
            affine=not search,
            name=name,
        )


@dataclasses.dataclass(frozen=True)
class ZeroiseType:
    """Zeros for any input (section 4.1.3)."""

    learnable: ClassVar[bool] = False
    batching: ClassVar[str | None] = NOTHING

    def num_convs(self, stride: int) -> int:
        """Zero."""
        del stride
        return 0

    def module(self, *, stride, name, **fields):
        """A `Zeroise`."""
        # Zeros depend on none of the other fields.
        del fields
        return Zeroise(stride=stride, name=name)


@dataclasses.dataclass(frozen=True)
class SeparableType:
    """A depthwise k x k convolution and a pointwise one, `times` in a row.

    DARTS's code has separable convolutions twice in a row and dilated ones once.

    kernel: k.
    dilation: in pixels, of the depthwise convolution.
    """

    kernel: int
    dilation: int = 1
    times: int = 2
    learnable: ClassVar[bool] = True
    batching: ClassVar[str | None] = COPIES

    def num_convs(self, stride: int) -> int:
        """Two for each repetition."""
        del stride
        return 2 * self.times

    def module(self, *, features, search, copies=1, **fields):
        """A `Separable`."""
        return Separable(
            features=features * copies,
            kernel=self.kernel,
            dilation=self.dilation,
            times=self.times,
            affine=not search,
            copies=copies,
            **fields,
        )


@dataclasses.dataclass(frozen=True)
class CrossedType:
    """A 1 x k convolution, then a k x 1 one (NASNet's, in DARTS's code).

    The first strides along the columns, the second along the rows.
    """

    kernel: int
    learnable: ClassVar[bool] = True
    batching: ClassVar[str | None] = COPIES

    def num_convs(self, stride: int) -> int:
        """Two."""
        del stride
        return 2

    def module(self, *, features, search, copies=1, **fields):
        """A `Crossed`."""
        return Crossed(
            features=features * copies,
            kernel=self.kernel,
            affine=not search,
            groups=copies,
            **fields,
        )


@dataclasses.dataclass(frozen=True)
class SkipType:
    """The identity; with a stride, a factorized reduce (DARTS's code).

    No BN follows the identity.
    """

    # The type counts as an identity, although it has weights where it is strided.
    learnable: ClassVar[bool] = False
    batching: ClassVar[str | None] = COPIES

    def num_convs(self, stride: int) -> int:
        """Two in a factorized reduce, zero in the identity."""
        return 2 if stride > 1 else 0

    def module(self, *, features, stride, search, name, copies=1, **fields):
        """An `Identity` or a `FactorizedReduce`."""
        if stride == 1:
            return Identity(name=name)
        return FactorizedReduce(
            features=features * copies,
            affine=not search,
            copies=copies,
            name=name,
            **fields,
        )


@dataclasses.dataclass(frozen=True)
class MobiNetType:
    """MoBiNet's separable block (arXiv 1907.12629).

    Each of its convolutions has a shortcut. The BNAS paper compares with this block
    (appendix E.1, Table 12).

    kernel: k of the k x k convolution.
    inputs: K of the K-dependency: how many input channels each output of the k x k
        convolution sees; 1 is depthwise. Where K does not divide the channels, such as
        the 3 of a colour image, the largest smaller number that does is used.

    How sure: not very. No code was published. The form follows the paper's abstract and
    the description in the BNAS paper (`MobiNet`).
    """

    kernel: int
    inputs: int = 1
    learnable: ClassVar[bool] = True
    batching: ClassVar[str | None] = COPIES

    @property
    def channel_step(self) -> int:
        """K, since the convolution uses K only where K divides the channels."""
        return self.inputs

    def num_convs(self, stride: int) -> int:
        """Two."""
        del stride
        return 2

    def module(self, *, features, search, copies=1, **fields):
        """A `MobiNet`."""
        return MobiNet(
            features=features * copies,
            kernel=self.kernel,
            inputs=self.inputs,
            affine=not search,
            copies=copies,
            **fields,
        )


MAX_POOL = PoolingType(max_pool, plain=plain_max_pool)

LAYERS: dict[str, LayerType] = {
    # Table 3, the search space of BNAS.
    ZEROISE: ZeroiseType(),
    "max_pool_3x3": MAX_POOL,
    "avg_pool_3x3": PoolingType(avg_pool),
    "bin_conv_3x3": BinaryConvType(kernel=3),
    "bin_conv_5x5": BinaryConvType(kernel=5),
    "bin_dil_conv_3x3": BinaryConvType(kernel=3, dilation=2),
    "bin_dil_conv_5x5": BinaryConvType(kernel=5, dilation=2),
    # The layer types of the float searches: DARTS, SNAS, GDAS.
    "skip_connect": SkipType(),
    "sep_conv_3x3": SeparableType(kernel=3),
    "sep_conv_5x5": SeparableType(kernel=5),
    "sep_conv_7x7": SeparableType(kernel=7),
    "dil_conv_3x3": SeparableType(kernel=3, dilation=2, times=1),
    "dil_conv_5x5": SeparableType(kernel=5, dilation=2, times=1),
    "conv_7x1_1x7": CrossedType(kernel=7),
    # The blocks of a hand-made binary network, MoBiNet.
    "mobinet_3x3": MobiNetType(kernel=3),
    "mobinet_k4_3x3": MobiNetType(kernel=3, inputs=4),
}


def layer_type(name: str) -> LayerType:
    """The entry `name` of `LAYERS`; raises `UserError` if there is none or a class."""
    if name not in LAYERS:
        raise UserError(
            f"layer type {name!r} has no layer in this version; use a genotype of "
            f"{', '.join(LAYERS)}"
        )
    # A common mistake is the class itself.
    if isinstance(LAYERS[name], type):
        raise UserError(
            f"LAYERS[{name!r}] must be an object such as BinaryConvType(kernel=7), got "
            f"{LAYERS[name]!r}"
        )
    return LAYERS[name]


def channel_step_of(name: str) -> int:
    """The number that channels should be a multiple of; 1 for most layer types.

    At these widths the groups of the layer type have the same size, so that its cost is
    a quadratic function of the width. The layer type works at any other width, too.
    """
    return getattr(layer_type(name), "channel_step", 1)


def layer_module(name: str, *, layer: str, bn_of_pools: bool, **fields) -> nn.Module:
    """The module of an edge of the layer type `name`.

    Raises `UserError` for a name that is not in `LAYERS`.

    layer: the module's name.
    bn_of_pools: whether a BN follows a pooling, see `forms.Form`.
    fields: the other arguments of `LayerType.module`.
    """
    kind = layer_type(name)
    # Only poolings take this argument.
    if kind.batching == POOLING:
        fields["batch_norm"] = bn_of_pools
    return kind.module(name=layer, **fields)


# For the cost walk and the optimizer, which know of a parameter only its name.
def is_latent(name: str) -> bool:
    """Whether a parameter of this name holds latent weights.

    The names are `latent`, and `latent_TYPE` where one array holds the kernels of
    several edges.
    """
    if name == "latent":
        return True
    return name.startswith("latent_") and name.removeprefix("latent_") in LAYERS


def learnable_share(genotype: Genotype) -> float:
    """The share of layers in both cells that have weights to learn (section 4.3).

    Returns a number from 0 to 1.
    """
    picked: list[Edge] = []
    for reduction in (False, True):
        picked += edges(genotype.cell(reduction))
    learnable = sum(layer_type(edge.layer_type).learnable for edge in picked)
    return learnable / len(picked)
