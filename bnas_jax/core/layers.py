"""The layer types that an edge can be: `LAYERS`, the one table of them. A new layer type is a new entry.

An entry makes the module of an edge and says how many convolutions that has. What it costs is counted by walking the module.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import ZEROISE, Genotype, edges
from bnas_jax.core.modules import BatchNorm, BinaryConv
from bnas_jax.core.ops.pool import avg_pool, max_pool, plain_max_pool
from bnas_jax.core.schemes.scheme import Scheme

# How all edges of a state that have the same type can run as one (`shared_edges`).
CONVOLUTION, POOLING, NOTHING = "convolution", "pooling", "nothing"


class LayerType(Protocol):
    """An entry of `LAYERS`.

    learnable: whether it has weights to learn (section 4.3). joins: how `shared_edges` runs its edges side by side: as a
    `CONVOLUTION`, whose module is `BinaryConvType`'s, or a `POOLING`, whose module is `PoolingType`'s; `NOTHING` for one
    whose output is zeros. None, which every other layer type has: a module for each edge.
    """

    @property
    def learnable(self) -> bool: ...

    @property
    def joins(self) -> str | None: ...

    def num_convs(self, stride: int) -> int:
        """The number of its convolutions with weights."""

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
        """The module of an edge: `module(x, train=train)`, (N, H, W, C) to (N, H / stride, W / stride, features).

        search: in the supernet, where BN has no scale and shift, so that edges stay comparable. binary_weights: False keeps
        them float, as the released code's index error does. name: the module's.
        """


@dataclasses.dataclass(frozen=True)
class BinaryConvType:
    """BN -> sign -> k x k convolution, dilated or not (Table 3)."""

    kernel: int
    dilation: int = 1
    learnable: ClassVar[bool] = True
    joins: ClassVar[str | None] = CONVOLUTION

    def num_convs(self, stride: int) -> int:
        """One."""
        del stride
        return 1

    def module(self, *, features, stride, scheme, arithmetic, search, binary_weights, name):
        """A `BinaryConv`."""
        return BinaryConv(
            features=features,
            kernel=self.kernel,
            stride=stride,
            dilation=self.dilation,
            scheme=scheme,
            arithmetic=arithmetic,
            binary_weights=binary_weights,
            affine=not search,
            name=name,
        )


@dataclasses.dataclass(frozen=True)
class PoolingType:
    """3x3 pooling, in the search with a BN behind it (methods.md C).

    function: of (x, stride). plain: the same for `Arithmetic.plain`, where it has a gradient of its own.
    """

    function: Callable[[jax.Array, int], jax.Array]
    plain: Callable[[jax.Array, int], jax.Array] | None = None
    learnable: ClassVar[bool] = False
    joins: ClassVar[str | None] = POOLING

    def num_convs(self, stride: int) -> int:
        """None."""
        del stride
        return 0

    def form(self, arithmetic: Arithmetic) -> Callable[[jax.Array, int], jax.Array]:
        """The function of (x, stride) in that arithmetic."""
        if arithmetic.plain and self.plain is not None:
            return self.plain
        return self.function

    def module(self, *, features, stride, scheme, arithmetic, search, binary_weights, name):
        """A `Pooling`."""
        del features, scheme, binary_weights
        return Pooling(function=self.form(arithmetic), stride=stride, arithmetic=arithmetic, batch_norm=search, name=name)


@dataclasses.dataclass(frozen=True)
class ZeroiseType:
    """Zeros, whatever comes in (section 4.1.3)."""

    learnable: ClassVar[bool] = False
    joins: ClassVar[str | None] = NOTHING

    def num_convs(self, stride: int) -> int:
        """None."""
        del stride
        return 0

    def module(self, *, features, stride, scheme, arithmetic, search, binary_weights, name):
        """A `Zeroise`."""
        del features, scheme, arithmetic, search, binary_weights
        return Zeroise(stride=stride, name=name)


class Pooling(nn.Module):
    """A pooling, and a BN without scale and shift behind it where wanted."""

    function: Callable[[jax.Array, int], jax.Array]
    stride: int
    arithmetic: Arithmetic
    batch_norm: bool

    @nn.compact
    def __call__(self, x, *, train: bool):
        y = self.function(x, self.stride)
        if not self.batch_norm:
            return y
        return BatchNorm(self.arithmetic, affine=False, name="bn")(y, train=train)


class Zeroise(nn.Module):
    """Zeros of the output's shape."""

    stride: int

    def __call__(self, x, *, train: bool):
        del train
        return jnp.zeros_like(x[:, :: self.stride, :: self.stride])


LAYERS: dict[str, LayerType] = {
    ZEROISE: ZeroiseType(),
    "max_pool_3x3": PoolingType(max_pool, plain=plain_max_pool),
    "avg_pool_3x3": PoolingType(avg_pool),
    "bin_conv_3x3": BinaryConvType(kernel=3),
    "bin_conv_5x5": BinaryConvType(kernel=5),
    "bin_dil_conv_3x3": BinaryConvType(kernel=3, dilation=2),
    "bin_dil_conv_5x5": BinaryConvType(kernel=5, dilation=2),
}


def layer_type(name: str) -> LayerType:
    """The entry of `LAYERS`; `UserError` for a name without one."""
    if name not in LAYERS:
        raise UserError(f"layer type {name!r} has no layer in this version; use a genotype of {', '.join(LAYERS)}")
    return LAYERS[name]


def is_latent(name: str) -> bool:
    """Whether a parameter of this name is latent weights: `latent`, or `latent_TYPE` of edges side by side."""
    return name == "latent" or name.removeprefix("latent_") in LAYERS


def learnable_share(genotype: Genotype) -> float:
    """Share of the picked layers of both cells that have weights to learn (section 4.3)."""
    picked = [edge.layer_type for reduction in (False, True) for edge in edges(genotype.cell(reduction))]
    return sum(layer_type(name).learnable for name in picked) / len(picked)
