"""What the edges that leave a state have in common, and which run together."""

import dataclasses

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.errors import UserError
from bnas_jax.core.layers import (
    CONVOLUTION,
    COPIES,
    POOLING,
    BinaryConvType,
    LayerType,
    PoolingType,
    layer_type,
)
from bnas_jax.core.ops.geometry import Geometry, square
from bnas_jax.core.schemes.scheme import BN_FIRST, Scheme


@dataclasses.dataclass(frozen=True)
class EdgeSpec:
    """What the edges that leave a state have in common.

    It is hashable, and so a static argument of `shared_edges.shared_edges`.

    layer_types: in the order of the columns of the weights.
    stride: of every edge.
    bn_of_pools: whether a BN follows the poolings.
    """

    layer_types: tuple[str, ...]
    stride: int
    scheme: Scheme
    arithmetic: Arithmetic
    bn_of_pools: bool = True

    def batching(self, name: str) -> str | None:
        """The function `batching` under this scheme."""
        return batching(name, self.scheme)

    @property
    def convs(self) -> list[str]:
        """The layer types that run as one convolution each."""
        return [name for name in self.layer_types if self.batching(name) == CONVOLUTION]

    @property
    def pools(self) -> list[str]:
        """The layer types that are poolings."""
        return [name for name in self.layer_types if self.batching(name) == POOLING]

    def geometry(self, name: str, groups: int = 1) -> Geometry:
        """How the kernel of a convolution type moves.

        groups: 1, or the number of edges where each edge reads other input channels.
        """
        kind = self.conv_type(name)
        return square(
            kind.kernel,
            stride=self.stride,
            dilation=kind.dilation,
            groups=groups,
        )

    def conv_type(self, name: str) -> BinaryConvType:
        """The entry of a layer type that is a convolution."""
        kind = layer_type(name)
        _check_module(name, kind, BinaryConvType)
        assert isinstance(kind, BinaryConvType)
        return kind

    def pool(self, name: str, x):
        """x through a layer type that is a pooling: (N, H, W, C) to (N, H', W', C)."""
        kind = layer_type(name)
        _check_module(name, kind, PoolingType)
        assert isinstance(kind, PoolingType)
        pooling = kind.form(self.arithmetic)
        return pooling(x, self.stride)


def batching(name: str, scheme: Scheme) -> str | None:
    """`LayerType.batching` of a layer type, as far as the scheme allows it.

    None where the edges of this type cannot be computed together under the scheme.
    """
    how = layer_type(name).batching
    # Edges share the normalised state only if BN comes first. They have no biases.
    if how == CONVOLUTION and (scheme.order != BN_FIRST or scheme.bias):
        return None
    together = scheme.batches_edges and not _of_one_convolution(scheme)
    if how in (CONVOLUTION, COPIES) and not together:
        return None
    return how


def _of_one_convolution(scheme: Scheme) -> bool:
    """Whether a scheme does something that several convolutions side by side lack.

    It makes parameters, which belong to one convolution, or has methods that only
    `convolution.Convolution` calls.
    """
    kind = type(scheme)
    overridden = (
        kind.parameters is not Scheme.parameters
        or kind.convolve is not Scheme.convolve
        or kind.kernel is not Scheme.kernel
    )
    return overridden or scheme.activation == "prelu"


def _check_module(
    name: str, kind: LayerType, usual: type[BinaryConvType | PoolingType]
) -> None:
    """Raises `UserError` for a layer type with a module that would not be called.

    usual: the class of layer types whose module `shared_edges` computes.
    """
    if not isinstance(kind, usual) or type(kind).module is not usual.module:
        raise UserError(
            f"the layer type {name!r} has a module of its own, which edges that are "
            "computed together would not call; write batching = None in its class"
        )
