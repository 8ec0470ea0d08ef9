"""The edges that leave one state, with their work shared: the same function as
`edge_by_edge.plain_edges`.

In the search BN has no scale and shift, so the normalised state, its signs and its
poolings are the same for all edges that leave a state, and the convolutions of one type
run side by side as one with more output channels. That is a quarter of the operations
to compile; a test compares both forms.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

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
from bnas_jax.core.ops.batch_norm import batch_norm, normalize_all
from bnas_jax.core.ops.conv import Geometry, conv, square
from bnas_jax.core.ops.materialize import recompute
from bnas_jax.core.schemes.scheme import BN_FIRST, Scheme, convolve_signs, finish


@dataclasses.dataclass(frozen=True)
class EdgeSpec:
    """What the edges that leave a state have in common.

    layer_types: in the order of the columns of the weights. stride: of every edge.
    bn_of_pools: whether poolings have a BN.

    It is hashable, and so a static argument of `shared_edges`.
    """

    layer_types: tuple[str, ...]
    stride: int
    scheme: Scheme
    arithmetic: Arithmetic
    bn_of_pools: bool = True

    def batching(self, name: str) -> str | None:
        """How the edges of a layer type are computed together under the scheme: see the
        function `batching`.
        """
        return batching(name, self.scheme)

    @property
    def convs(self) -> list[str]:
        """The layer types that run as one convolution."""
        return [name for name in self.layer_types if self.batching(name) == CONVOLUTION]

    @property
    def pools(self) -> list[str]:
        """The layer types that are poolings."""
        return [name for name in self.layer_types if self.batching(name) == POOLING]

    def geometry(self, name: str, groups: int = 1) -> Geometry:
        """How a convolution's kernel moves. groups: 1, or the number of edges where
        each reads other input channels.
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
        """x through a layer type that is a pooling."""
        kind = layer_type(name)
        _check_module(name, kind, PoolingType)
        assert isinstance(kind, PoolingType)
        return kind.form(self.arithmetic)(x, self.stride)


def batching(name: str, scheme: Scheme) -> str | None:
    """`LayerType.batching` of a layer type, or None where its edges cannot be computed
    together under the scheme.
    """
    how = layer_type(name).batching
    # Edges share the normalised state only where BN comes first, and have no biases
    # then.
    if how == CONVOLUTION and (scheme.order != BN_FIRST or scheme.bias):
        return None
    # Parameters of a scheme belong to one convolution, not to several side by side.
    together = scheme.batches_edges and not has_parameters(scheme)
    if how in (CONVOLUTION, COPIES) and not together:
        return None
    return how


def has_parameters(scheme: Scheme) -> bool:
    """Whether a scheme makes parameters, which belong to one convolution."""
    kind = type(scheme)
    overridden = (
        kind.parameters is not Scheme.parameters or kind.convolve is not Scheme.convolve
    )
    return overridden or scheme.activation == "prelu"


def _check_module(
    name: str, kind: LayerType, usual: type[BinaryConvType | PoolingType]
) -> None:
    """`UserError` for a layer type whose edges would be computed together although it
    defines another module than `usual`.
    """
    if not isinstance(kind, usual) or type(kind).module is not usual.module:
        raise UserError(
            f"the layer type {name!r} has a module of its own, which edges that are "
            "computed together would not call; "
            "write batching = None in its class"
        )


# Jitted by itself, so that states of equal shapes are traced, differentiated and
# lowered once: half the time before XLA.
@functools.partial(jax.jit, static_argnames=("spec", "train"))
def shared_edges(
    x, weights, kernels: dict, running: dict, *, spec: EdgeSpec, train: bool
):
    """(each edge's weighted sum over the convolutions and poolings, (N, H', W', E, C);
    running statistics after it).

    x: the state, (N, H, W, C). weights: (E, types).
    kernels: `latent_TYPE` and `kernel_TYPE`, (k, k, C, edges * C): those of the first
    edges, binary, and of the last ones,
        which stay float (`supernet.float_edges`).
    running: the statistics `bn` of the convolutions' input and `pool_bn` of the
    poolings, see `mixed_edges.MixedEdges`.
    """
    outputs: dict[str, jax.Array] = {}
    column = {name: weights[:, index] for index, name in enumerate(spec.layer_types)}

    # What has a batch norm: the poolings, side by side on the channels, and the state
    # that the convolutions read.
    inputs = {}
    if spec.pools:
        y = jnp.concatenate([spec.pool(name, x) for name in spec.pools], axis=-1)
        if spec.bn_of_pools:
            inputs["pool_bn"] = y
    if spec.convs:
        inputs["bn"] = x
    normal, new = _normalized(inputs, running, arithmetic=spec.arithmetic, train=train)

    if spec.pools:
        y = normal.get("pool_bn", y)
        y = y.reshape(*y.shape[:3], -1, y.shape[-1])  # (N, H', W', 1 or E, types * C)
        of_pools = jnp.split(y, len(spec.pools), axis=-1)
        weigh = recompute(lambda y, weights: y * weights[:, None])
        for name, y in zip(spec.pools, of_pools, strict=True):
            outputs[name] = weigh(y, column[name])

    # All convolutions of the same normalised state: (N, H, W, C), or (N, H, W, types,
    # E, C) where each edge and type has running statistics, in evaluation.
    if spec.convs:
        signs = spec.scheme.signs(normal["bn"])
        for position, name in enumerate(spec.convs):
            type_signs, type_normal = signs, normal["bn"]
            if signs.ndim > 4:
                type_signs = signs[..., position, :, :]
                type_normal = type_normal[..., position, :, :]
            outputs[name] = _convs(
                type_signs,
                type_normal,
                name=name,
                kernels=kernels,
                weights=column[name],
                spec=spec,
            )

    # In the order of the types, as sums of floats depend on it.
    total = jnp.zeros((), x.dtype)
    for name in spec.layer_types:
        if name in outputs:
            total = total + outputs[name]
    return total, new


def _normalized(inputs: dict, running: dict, *, arithmetic: Arithmetic, train: bool):
    """({name: the input behind its batch norm}, {name: running statistics after it}),
    of inputs by name.

    Over several devices they have their messages in common.
    """
    together: list = [None] * len(inputs)
    if inputs and train and arithmetic.bn_axis and not arithmetic.plain:
        values = tuple(inputs.values())
        together = list(
            normalize_all(values, arithmetic.bn_axis, arithmetic.bn_examples)
        )
    normal, new = {}, {}
    for (name, x), normalized in zip(inputs.items(), together, strict=True):
        normal[name], new[name] = batch_norm(
            x, running[name], arithmetic=arithmetic, train=train, normalized=normalized
        )
    return normal, new


def _convs(signs, normal, *, name: str, kernels: dict, weights, spec: EdgeSpec):
    """The convolutions of one type of all edges side by side, weighted: (N, H', W', E,
    C).

    signs, normal: (N, H, W, C), or (N, H, W, E, C) where each edge has its running
    statistics. weights: (E,).
    """
    edges, channels = len(weights), signs.shape[-1]
    shared = signs.ndim == 4
    signs = signs.reshape(*signs.shape[:3], -1)  # (N, H, W, C or E * C)

    # K of Eq. (1), one for all edges or one for each: (N, H', W', 1 or E, 1).
    size = spec.conv_type(name).kernel
    scale = spec.scheme.input_scale(
        normal, kernel=(size, size), geometry=spec.geometry(name)
    )
    if scale is not None:
        scale = scale.reshape(*scale.shape[:3], -1, 1)

    # Edges with binary weights come first, those that stay float last.
    outputs = []
    for prefix in ("latent", "kernel"):
        kernel = kernels.get(f"{prefix}_{name}")
        if kernel is None:
            continue
        count = kernel.shape[-1] // channels
        convolve: Callable = _binary_edges
        first = 0
        if prefix == "kernel":
            convolve = _float_edges
            first = edges - count
        part = slice(first, first + count)

        # What these edges read: all of them the same, or each its channels, as groups
        # of one convolution.
        inputs, groups, part_scale = signs, 1, scale
        if not shared:
            inputs = signs[..., part.start * channels : part.stop * channels]
            groups = count
        if not shared and scale is not None:
            part_scale = scale[..., part, :]
        y = convolve(
            inputs,
            kernel,
            scale=part_scale,
            weights=weights[part],
            spec=spec,
            geometry=spec.geometry(name, groups=groups),
        )
        outputs.append(y)
    return jnp.concatenate(outputs, axis=-2)


def _binary_edges(signs, latent, *, scale, weights, spec: EdgeSpec, geometry: Geometry):
    """latent: (k, k, C, E * C). Returns (N, H', W', E, C)."""
    kernel, operands = spec.scheme.weights(latent)
    return convolve_signs(
        _WeightedEdges(spec.scheme),
        signs,
        kernel,
        operands=(scale, weights, *operands),
        scheme=spec.scheme,
        geometry=geometry,
        arithmetic=spec.arithmetic,
    )


def _float_edges(signs, kernel, *, scale, weights, spec: EdgeSpec, geometry: Geometry):
    """kernel: (k, k, C, E * C). Returns (N, H', W', E, C)."""
    dtype, plain = spec.arithmetic.conv_dtype, spec.arithmetic.plain
    y = conv(signs, kernel, geometry=geometry, dtype=dtype, plain=plain)
    return _weighted(y, scale, weights, scheme=spec.scheme)


@dataclasses.dataclass(frozen=True)
class _WeightedEdges:
    """`sign_conv`'s function of the sums for edges side by side.

    Equal ones compare equal, so that tracing is cached.
    """

    scheme: Scheme

    def __call__(self, sums, scale, weights, *operands):
        y = self.scheme.after(sums, *operands)
        return _weighted(y, scale, weights, scheme=self.scheme)


def _weighted(y, scale, weights, *, scheme: Scheme):
    """y: (N, H, W, E * C); scale: K, (N, H, W, 1 or E, 1), or None; weights: (E,).

    Returns (N, H, W, E, C).
    """
    y = y.reshape(*y.shape[:3], len(weights), -1)
    y = finish(scheme, y, scale=scale, activation=True)
    return y * weights[:, None]
