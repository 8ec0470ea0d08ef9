"""The search's network: every edge a mixture of all layer types, weighted by the relaxed alphas (DARTS Eq. 2).

`plain_edges` is the mixture as one reads it; `shared_edges` computes the same with a quarter of the operations.
"""

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from bnas_jax.core import alphas as alphas_lib
from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.cell import InterCellSkip, Preprocess, drop_path
from bnas_jax.core.errors import UserError
from bnas_jax.core.forms import CifarStem
from bnas_jax.core.genotype import EDGES, INPUTS, NODES, TABLE_3
from bnas_jax.core.layers import CONVOLUTION, NOTHING, POOLING, layer_type
from bnas_jax.core.modules import Classifier, uniform_fan_in
from bnas_jax.core.ops.batch_norm import batch_norm, initial_statistics
from bnas_jax.core.schemes import Scheme, Xnor
from bnas_jax.core.schemes.scheme import binary_conv, float_weight_conv
from bnas_jax.core.shared_edges import EdgeSpec, shared_edges
from bnas_jax.core.stack import Place, check_image_size, stack

FORMS_OF_EDGES = ("shared", "plain")


class Supernet(nn.Module):
    """`apply(variables, alphas, images, train=False)`: NHWC images to logits (N, num_classes).

    alphas: {"normal", "reduce"}, each (14, layer types). `mixture` takes the weights of the layer types themselves.
    num_cells, channels: of the stack; channels are those of the first cell's nodes. layer_types: names of `LAYERS`.
    skip, reduction_skip, float_head: as in `Network`. binary_preprocess: binarize the preprocessing convolutions, too.
    edges: "shared" or "plain", two forms of one function with the same variables.
    shared_statistics: one running mean and variance for all edges that leave a state, as they see the same batches; False
        keeps one for each edge and type, as released checkpoints do.
    """

    num_cells: int
    channels: int
    num_classes: int
    layer_types: tuple[str, ...] = TABLE_3
    skip: bool = True
    reduction_skip: str = "binary_bn"
    float_head: bool = False
    binary_preprocess: bool = False
    edges: str = "shared"
    shared_statistics: bool = True
    scheme: Scheme = Xnor()
    arithmetic: Arithmetic = Arithmetic()

    def __call__(self, alphas, images, *, train: bool = False):
        return self.mixture(alphas_lib.relax(alphas), images, train=train)

    @nn.compact
    def mixture(self, weights, images, *, train: bool = False, drop_path_rate=None, scalars=None):
        """Logits from the weights of the layer types, {"normal", "reduce"}, each (14, layer types).

        drop_path_rate: None or that of whole edges, of use in training alone; needs the rng `drop_path`.
        scalars: None or what is added to all outputs of an edge, {"normal", "reduce"}, each (14,).
        """
        chex.assert_shape(list(weights.values()), (len(EDGES), len(self.layer_types)))
        if self.edges not in FORMS_OF_EDGES:
            raise UserError(f"edges must be one of {', '.join(FORMS_OF_EDGES)}, got {self.edges!r}")
        images = images.astype(self.arithmetic.dtype)
        stem = CifarStem(channels=self.channels, arithmetic=self.arithmetic, name="stem")
        before, previous = stem(images, train=train)
        check_image_size(previous.shape, self.num_cells)

        factors: list | jax.Array = [None] * self.num_cells
        if train and drop_path_rate is not None:
            factors = drop_path(
                self.make_rng("drop_path"),
                drop_path_rate,
                cells=self.num_cells,
                layers=len(EDGES),
                batch=images.shape[0],
                arithmetic=self.arithmetic,
            )

        left_float = float_edges(self)
        for place in self.places:
            cell = MixedCell(
                place=place,
                layer_types=self.layer_types,
                scheme=self.scheme,
                arithmetic=self.arithmetic,
                skip=self.skip,
                reduction_skip=self.reduction_skip,
                binary_preprocess=self.binary_preprocess,
                float_edges=left_float[place.index],
                edges=self.edges,
                shared_statistics=self.shared_statistics,
                name=place.name,
            )
            added = None if scalars is None else scalars[place.kind]
            output = cell(before, previous, weights[place.kind], train=train, factors=factors[place.index], scalars=added)
            before, previous = previous, output
        return Classifier(num_classes=self.num_classes, arithmetic=self.arithmetic, name="classifier")(previous)

    def even_mixture(self) -> dict[str, jax.Array]:
        """The same weight for each layer type, to initialise with."""
        weights = jnp.full((len(EDGES), len(self.layer_types)), 1 / len(self.layer_types), self.arithmetic.dtype)
        return {"normal": weights, "reduce": weights}

    @property
    def places(self) -> tuple[Place, ...]:
        """The plan of the stack."""
        return stack(self.num_cells, self.channels)


class MixedCell(nn.Module):
    """A cell of the search's network. float_edges: see the function of that name, for this cell."""

    place: Place
    layer_types: tuple[str, ...]
    scheme: Scheme
    arithmetic: Arithmetic
    skip: bool
    reduction_skip: str
    binary_preprocess: bool
    float_edges: tuple[tuple[int, ...], ...]
    edges: str
    shared_statistics: bool

    @nn.compact
    def __call__(self, before, previous, weights, *, train: bool, factors=None, scalars=None):
        """before, previous: outputs of the two cells before, NHWC; weights: (14, layer types); factors: None or this cell's
        `drop_path`, (14, N); scalars: None or what is added to each edge, (14,)."""
        binary = self.binary_preprocess
        preprocess = Preprocess(
            place=self.place,
            scheme=self.scheme,
            arithmetic=self.arithmetic,
            binary_weights=(binary, binary),
            affine=(False, False),
            binary_input=binary,
            name="preprocess",
        )
        states = list(preprocess(before, previous, train=train))

        # Each state sends its edges to all later nodes, which add them up.
        nodes: list = [0] * NODES
        for source in range(INPUTS + NODES - 1):
            if source >= INPUTS:
                states.append(nodes[source - INPUTS])
            leaving = [edge for edge, (start, _) in enumerate(EDGES) if start == source]
            mixed = self._edges_from(source)(states[source], weights[jnp.array(leaving)], train=train)
            for position, edge in enumerate(leaving):
                node = EDGES[edge][1] - INPUTS
                edge_output = mixed[:, :, :, position]
                if factors is not None:
                    edge_output = edge_output * factors[edge][:, None, None, None]
                if scalars is not None:
                    edge_output = edge_output + scalars[edge]
                nodes[node] = nodes[node] + edge_output
        output = jnp.concatenate(nodes, axis=-1)

        if self.skip and self.place.follows_a_cell:
            skip = InterCellSkip(
                reduction=self.place.reduction,
                kind=self.reduction_skip,
                scheme=self.scheme,
                arithmetic=self.arithmetic,
                name="skip",
            )
            output = skip(output, previous, train=train)
        return output

    def _edges_from(self, source: int) -> "MixedEdges":
        return MixedEdges(
            channels=self.place.channels,
            stride=self.place.stride(source),
            layer_types=self.layer_types,
            scheme=self.scheme,
            arithmetic=self.arithmetic,
            float_edges=self.float_edges[source],
            edges=self.edges,
            shared_statistics=self.shared_statistics,
            name=f"state{source}",
        )


class MixedEdges(nn.Module):
    """All edges that leave one state: each the weighted sum of its layer types' outputs.

    Kernels of all edges lie side by side in one array a type, (k, k, C, edges * C). Layer types that do not join have a
    module for each edge, `edgeE_TYPE`.
    float_edges: for each convolution of `layer_types`, how many of the last edges have float weights.
    """

    channels: int
    stride: int
    layer_types: tuple[str, ...]
    scheme: Scheme
    arithmetic: Arithmetic
    float_edges: tuple[int, ...] | None = None
    edges: str = "shared"
    shared_statistics: bool = True

    @nn.compact
    def __call__(self, x, weights, *, train: bool):
        """x: (N, H, W, C); weights: (E, layer types). Returns (N, H', W', E, C)."""
        joined = [name for name in self.layer_types if joins(name, self.scheme)]
        columns = jnp.array([self.layer_types.index(name) for name in joined], jnp.int32)
        spec = EdgeSpec(tuple(joined), self.stride, self.scheme, self.arithmetic)
        kernels = self._kernels(x.shape[-1], len(weights), spec)
        running = self._running(x.shape[-1], len(weights), spec)
        values = {name: variable.value for name, variable in running.items()}

        compute = shared_edges if self.edges == "shared" else plain_edges
        weights = weights.astype(self.arithmetic.dtype)
        total, new = compute(x, weights[:, columns], kernels, values, spec=spec, train=train)
        if train and not self.is_initializing():
            for name, variable in running.items():
                variable.value = new[name]

        for index, name in enumerate(self.layer_types):
            if name not in joined:
                total = total + self._one_by_one(x, weights[:, index], name, train=train)
        return total

    def macs(self, x, y) -> tuple[int, int]:
        """(binary, float) multiply-accumulates of one image, of the convolutions that lie side by side."""
        binary = floats = 0
        for name, kernel in self.variables.get("params", {}).items():
            if not hasattr(kernel, "shape"):
                continue
            count = y.shape[1] * y.shape[2] * kernel.size
            if name.startswith("latent"):
                binary += count
            else:
                floats += count
        return binary, floats

    def _kernels(self, channels: int, edges: int, spec: EdgeSpec) -> dict:
        """The parameters `latent_TYPE` and, for edges that stay float, `kernel_TYPE`."""
        kernels = {}
        counts = self.float_edges or (0,) * len(spec.convs)
        for name, floats in zip(spec.convs, counts, strict=True):
            size = spec.conv_type(name).kernel
            if not self.scheme.binary_weights:
                floats = edges
            for prefix, count in (("latent", edges - floats), ("kernel", floats)):
                if count:
                    shape = (size, size, channels, count * self.channels)
                    parameter = f"{prefix}_{name}"
                    kernels[parameter] = self.param(parameter, uniform_fan_in, shape, self.arithmetic.dtype)
        return kernels

    def _running(self, channels: int, edges: int, spec: EdgeSpec) -> dict:
        """The running statistics `bn` of the convolutions' input and `pool_bn` of the poolings."""
        shapes: dict[str, tuple[int, ...]] = {}
        if spec.convs:
            shapes["bn"] = (len(spec.convs), edges, channels)
        if spec.pools:
            shapes["pool_bn"] = (edges, len(spec.pools) * channels)
        running = {}
        for name, shape in shapes.items():
            if self.shared_statistics:
                shape = shape[-1:]
            running[name] = self.variable("batch_stats", name, initial_statistics, shape, self.arithmetic.dtype)
        return running

    def _one_by_one(self, x, weights, name: str, *, train: bool):
        """A layer type that does not join: (N, H', W', E, C). weights: (E,)."""
        outputs = []
        for edge in range(len(weights)):
            layer = layer_type(name).module(
                features=self.channels,
                stride=self.stride,
                scheme=self.scheme,
                arithmetic=self.arithmetic,
                search=True,
                binary_weights=True,
                name=f"edge{edge}_{name}",
            )
            outputs.append(weights[edge] * layer(x, train=train))
        return jnp.stack(outputs, axis=3)


def joins(name: str, scheme: Scheme) -> bool:
    """Whether all edges of a layer type can run as one."""
    how = layer_type(name).joins
    if how == CONVOLUTION:
        return scheme.joins and not has_parameters(scheme)
    return how in (POOLING, NOTHING)


def has_parameters(scheme: Scheme) -> bool:
    """Whether a scheme makes parameters, which belong to one convolution."""
    kind = type(scheme)
    overridden = kind.parameters is not Scheme.parameters or kind.convolve is not Scheme.convolve
    return overridden or scheme.activation == "prelu"


def plain_edges(x, weights, kernels: dict, running: dict, *, spec: EdgeSpec, train: bool):
    """Each edge on its own: the sum over its layer types of weight * layer(x) (DARTS Eq. 2).

    Arguments and results as `shared_edges`, which computes the same.
    """
    if not spec.convs and not spec.pools:
        return jnp.zeros((), x.dtype), {}
    new = jax.tree.map(jnp.asarray, running)
    mixed = []
    for edge in range(len(weights)):
        total = jnp.zeros((), x.dtype)
        for column, name in enumerate(spec.layer_types):
            kind = layer_type(name)
            if kind.joins == NOTHING:
                continue
            if kind.joins == CONVOLUTION:
                which, index = "bn", _conv_statistics(name, edge, running, spec)
                normal, moved = batch_norm(x, _at(running[which], index), arithmetic=spec.arithmetic, train=train)
                y = _plain_conv(normal, name, edge, len(weights), kernels=kernels, spec=spec)
            else:
                which, index = "pool_bn", _pool_statistics(name, edge, running, spec)
                y, moved = batch_norm(spec.pool(name, x), _at(running[which], index), arithmetic=spec.arithmetic, train=train)
            new[which] = {part: new[which][part].at[index].set(moved[part]) for part in moved}
            total = total + weights[edge, column] * y
        mixed.append(total)
    return jnp.stack(mixed, axis=3), new


def _plain_conv(normal, name: str, edge: int, edges: int, *, kernels: dict, spec: EdgeSpec):
    """The convolution of one edge and layer type, with its part of the kernels that lie side by side."""
    latent: Any = kernels.get(f"latent_{name}")
    kernel: Any = kernels.get(f"kernel_{name}")
    features = sum(array.shape[-1] for array in (latent, kernel) if array is not None) // edges
    binary_edges = 0 if latent is None else latent.shape[-1] // features
    if edge < binary_edges:
        part = slice(edge * features, (edge + 1) * features)
        return binary_conv(
            normal,
            latent[..., part],
            scheme=spec.scheme,
            geometry=spec.geometry(name),
            arithmetic=spec.arithmetic,
        )
    assert kernel is not None, "the edges that are not binary"
    part = slice((edge - binary_edges) * features, (edge - binary_edges + 1) * features)
    return float_weight_conv(
        normal,
        kernel[..., part],
        scheme=spec.scheme,
        geometry=spec.geometry(name),
        arithmetic=spec.arithmetic,
        binary_input=True,
    )


def _conv_statistics(name: str, edge: int, running: dict, spec: EdgeSpec) -> tuple:
    """Where an edge's statistics lie in `running["bn"]`: (C,), or (types, edges, C)."""
    if running["bn"]["mean"].ndim == 1:
        return (...,)
    return spec.convs.index(name), edge


def _pool_statistics(name: str, edge: int, running: dict, spec: EdgeSpec) -> tuple:
    """Where an edge's statistics lie in `running["pool_bn"]`: (types * C,), or (edges, types * C)."""
    mean = running["pool_bn"]["mean"]
    channels = mean.shape[-1] // len(spec.pools)
    first = spec.pools.index(name) * channels
    part = slice(first, first + channels)
    return (part,) if mean.ndim == 1 else (edge, part)


def _at(running: dict, index: tuple) -> dict:
    return {name: value[index] for name, value in running.items()}


def float_edges(net: Supernet) -> list[tuple[tuple[int, ...], ...]]:
    """For each cell, state and convolution type: how many of the last edges that leave the state keep float weights.

    The released index error again (`network.float_convs`): here the float convolutions that shift the count are those of
    the skips and of the preprocessing, and those left over are the last ones in the order of edges, then types.
    Layer types that do not join are left out: theirs stay binary.
    """
    types = [name for name in net.layer_types if layer_type(name).joins == CONVOLUTION and joins(name, net.scheme)]
    left = 0
    if net.float_head:
        left += sum(place.reduction and place.follows_a_cell for place in net.places) if net.skip else 0
        left += 0 if net.binary_preprocess else INPUTS * net.num_cells

    cells = []
    for _ in range(net.num_cells):  # from the last cell to the first
        order = [(start, name) for start, _ in EDGES for name in types]
        dropped = order[max(len(order) - left, 0) :]
        left = max(left - len(order), 0)
        states = range(INPUTS + NODES - 1)
        cells.append(tuple(tuple(dropped.count((state, name)) for name in types) for state in states))
    return cells[::-1]
