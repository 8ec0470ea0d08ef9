"""The settings that the edges leaving a state share, and which run together."""

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
    """The settings that all edges leaving a state share.

    It is hashable, so that it can be a static argument of `shared_edges.shared_edges`.

    layer_types: in the order of the columns of the mixture weights.
    stride: the stride of every edge.
    bn_of_pools: whether a BN follows the poolings.
    """

    layer_types: tuple[str, ...]
    stride: int
    scheme: Scheme
    arithmetic: Arithmetic
    bn_of_pools: bool = True

    def batching(self, name: str) -> str | None:
        """How edges of this layer type run together: `batching` under the scheme."""
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
        """The stride, padding, dilation and groups of a convolution type.

        groups: 1 where all edges read the same channels; the number of edges where each
            edge reads channels of its own.
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
    """`LayerType.batching` of a layer type under a scheme.

    It is None where the scheme does not allow the edges to be computed together.
    """
    how = layer_type(name).batching
    # Edges share the normalised state only if BN comes first, and convolutions that run
    # together have no biases.
    if how == CONVOLUTION and (scheme.order != BN_FIRST or scheme.bias):
        return None
    together = scheme.batches_edges and not _of_one_convolution(scheme)
    if how in (CONVOLUTION, COPIES) and not together:
        return None
    return how


def _of_one_convolution(scheme: Scheme) -> bool:
    """Whether a scheme needs each convolution to run by itself.

    That is so if it has parameters for each convolution, or overrides a method that
    only `convolution.Convolution` calls.
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
    """Raises `UserError` for a layer type with a module of its own.

    `shared_edges` computes the module of `usual` in its place, and would not call it.

    usual: the class of layer types that the batching is made for.
    """
    if not isinstance(kind, usual) or type(kind).module is not usual.module:
        raise UserError(
            f"the layer type {name!r} has a module of its own, which edges that are "
            "computed together would not call; write batching = None in its class"
        )
