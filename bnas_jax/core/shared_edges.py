"""The edges that leave one state, with their work shared.

`shared_edges` computes the same function as `edge_by_edge.plain_edges`, and a test
compares the two. In the search BN has no scale and shift. Therefore the normalised
state, its signs and its poolings are the same for all edges that leave the state, and
are computed once. The convolutions of one layer type run as a single convolution, whose
output channels are those of all edges. XLA has a quarter of the operations to compile.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.edge_spec import EdgeSpec
from bnas_jax.core.ops.batch_norm import batch_norm, normalize_all
from bnas_jax.core.ops.conv import float_conv
from bnas_jax.core.ops.geometry import Geometry
from bnas_jax.core.ops.materialize import recompute
from bnas_jax.core.ops.sign_conv import convolve_signs
from bnas_jax.core.schemes.binary_conv import finish
from bnas_jax.core.schemes.scheme import Scheme


# A jit of its own: states of equal shapes are traced, differentiated and lowered only
# once, which halves the time before XLA compiles.
@functools.partial(jax.jit, static_argnames=("spec", "train"))
def shared_edges(
    x, weights, kernels: dict, running: dict, *, spec: EdgeSpec, train: bool
):
    """Each edge's weighted sum over the convolutions and poolings (DARTS Eq. 2).

    Returns (sums, (N, H', W', E, C); updated running statistics). Without convolutions
    and poolings the sum is the scalar 0.

    x: the state, (N, H, W, C).
    weights: (E, layer types).
    kernels: `latent_TYPE` and `kernel_TYPE`, (k, k, C, edges * C). The first holds the
        first edges, which are binary; the second holds the last edges, which stay float
        (`supernet.float_edges`).
    running: the statistics `bn` of the convolutions' input and `pool_bn` of the
        poolings, see `mixed_edges.MixedEdges`.
    """
    # {layer type: its weight on each edge, (E,)}.
    columns = {name: weights[:, index] for index, name in enumerate(spec.layer_types)}

    # Batch norm of the poolings, concatenated on the channels, and of the state for the
    # convolutions.
    inputs = {}
    if spec.pools:
        pooled = [spec.pool(name, x) for name in spec.pools]
        y = jnp.concatenate(pooled, axis=-1)  # (N, H', W', types * C)
        if spec.bn_of_pools:
            inputs["pool_bn"] = y
    if spec.convs:
        inputs["bn"] = x
    normal, new = _normalized(inputs, running, arithmetic=spec.arithmetic, train=train)

    # The weighted outputs of each layer type, (N, H', W', E, C).
    outputs: dict[str, jax.Array] = {}
    if spec.pools:
        outputs |= _pools(normal.get("pool_bn", y), columns, spec=spec)
    if spec.convs:
        outputs |= _convs(normal["bn"], kernels, columns, spec=spec)

    # The sum in the order of the types, since a sum of floats depends on the order.
    total = jnp.zeros((), x.dtype)
    for name in spec.layer_types:
        if name in outputs:
            total = total + outputs[name]
    return total, new


def _normalized(inputs: dict, running: dict, *, arithmetic: Arithmetic, train: bool):
    """(the normalised inputs, the updated running statistics).

    Both are dicts with the keys of `inputs`. Over several devices, one collective
    serves all inputs.
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


def _pools(y, columns: dict, *, spec: EdgeSpec) -> dict:
    """The weighted poolings of all edges, {layer type: (N, H', W', E, C)}.

    y: the concatenated poolings, (N, H', W', types * C), or (N, H', W', E, types * C)
        where each edge has running statistics of its own.
    columns: {layer type: weights, (E,)}.
    """
    y = y.reshape(*y.shape[:3], -1, y.shape[-1])  # (N, H', W', 1 or E, types * C)
    of_pools = jnp.split(y, len(spec.pools), axis=-1)
    # The backward pass recomputes the products instead of storing them.
    weigh = recompute(lambda y, weights: y * weights[:, None])
    outputs = {}
    for name, y in zip(spec.pools, of_pools, strict=True):
        outputs[name] = weigh(y, columns[name])
    return outputs


def _convs(normal, kernels: dict, columns: dict, *, spec: EdgeSpec) -> dict:
    """The weighted convolutions of all edges, {layer type: (N, H', W', E, C)}.

    normal: the normalised state, (N, H, W, C), or (N, H, W, types, E, C) where each
        edge and type has running statistics of its own.
    kernels: see `shared_edges`.
    columns: {layer type: weights, (E,)}.
    """
    signs = spec.scheme.signs(normal)
    outputs = {}
    for position, name in enumerate(spec.convs):
        type_signs, type_normal = signs, normal
        if signs.ndim > 4:
            type_signs = signs[..., position, :, :]  # (N, H, W, E, C)
            type_normal = normal[..., position, :, :]
        outputs[name] = _convs_of_type(
            type_signs,
            type_normal,
            name=name,
            kernels=kernels,
            weights=columns[name],
            spec=spec,
        )
    return outputs


def _convs_of_type(signs, normal, *, name: str, kernels: dict, weights, spec: EdgeSpec):
    """The weighted convolutions of one layer type on all edges, (N, H', W', E, C).

    signs, normal: (N, H, W, C), or (N, H, W, E, C) where each edge has running
        statistics of its own.
    weights: (E,).
    """
    edges, channels = len(weights), signs.shape[-1]
    shared = signs.ndim == 4
    signs = signs.reshape(*signs.shape[:3], -1)  # (N, H, W, C or E * C)

    # K of Eq. (1), for all edges in common or for each edge: (N, H', W', 1 or E, 1).
    size = spec.conv_type(name).kernel
    scale = spec.scheme.input_scale(
        normal, kernel=(size, size), geometry=spec.geometry(name)
    )
    if scale is not None:
        scale = scale.reshape(*scale.shape[:3], -1, 1)

    # Edges with binary weights come first, edges that stay float last.
    outputs = []
    for prefix in ("latent", "kernel"):
        kernel = kernels.get(f"{prefix}_{name}")
        if kernel is None:
            continue

        # Which edges these are.
        count = kernel.shape[-1] // channels
        convolve: Callable = _binary_edges
        first = 0
        if prefix == "kernel":
            convolve = _float_edges
            first = edges - count
        part = slice(first, first + count)

        # The edges read the same channels, or each reads its own: then they are the
        # groups of one convolution.
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
        outputs.append(y)  # (N, H', W', count, C)
    return jnp.concatenate(outputs, axis=-2)


def _binary_edges(signs, latent, *, scale, weights, spec: EdgeSpec, geometry: Geometry):
    """Edges with binary weights, (N, H', W', E, C).

    latent: (k, k, C, E * C).

    The other arguments are those of `_weighted`.
    """
    kernel, operands = spec.scheme.weights(latent)
    return convolve_signs(
        _WeightedEdges(spec.scheme),
        geometry,
        x=signs,
        w=kernel,
        operands=(scale, weights, *operands),
        one_bit=spec.scheme.one_bit,
        arithmetic=spec.arithmetic,
    )


def _float_edges(signs, kernel, *, scale, weights, spec: EdgeSpec, geometry: Geometry):
    """Edges with float weights, (N, H', W', E, C).

    kernel: (k, k, C, E * C).

    The other arguments are those of `_weighted`.
    """
    y = float_conv(signs, kernel, geometry=geometry, arithmetic=spec.arithmetic)
    return _weighted(y, scale, weights, scheme=spec.scheme)


@dataclasses.dataclass(frozen=True)
class _WeightedEdges:
    """`sign_conv`'s function `after` for the concatenated sums of several edges.

    It is a dataclass because equal instances compare equal, so that tracing is cached.
    """

    scheme: Scheme

    def __call__(self, sums, scale, weights, *operands):
        y = self.scheme.after(sums, *operands)
        return _weighted(y, scale, weights, scheme=self.scheme)


def _weighted(y, scale, weights, *, scheme: Scheme):
    """The weighted outputs of several edges, (N, H', W', E, C).

    y: (N, H', W', E * C), before the input scale and the activation.
    scale: K, (N, H', W', 1 or E, 1), or None.
    weights: (E,).
    """
    y = y.reshape(*y.shape[:3], len(weights), -1)  # (N, H', W', E, C)
    y = finish(scheme, y, scale=scale, activation=True)
    return y * weights[:, None]
