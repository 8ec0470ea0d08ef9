"""All edges that leave one state of the search's network: their variables, and the
choice among the forms that compute them.

The variables are the same whatever the form (`Supernet.edges`), so that a checkpoint
fits all of them.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import unfreeze

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.edge_by_edge import Edges, chosen_edges, plain_edges
from bnas_jax.core.layers import CONVOLUTION, COPIES, POOLING, is_latent, layer_type
from bnas_jax.core.modules import uniform_fan_in
from bnas_jax.core.ops.batch_norm import initial_statistics
from bnas_jax.core.schemes import Scheme
from bnas_jax.core.shared_edges import EdgeSpec, shared_edges


class MixedEdges(nn.Module):
    """All edges that leave one state: each the weighted sum of its layer types'
    outputs.

    Kernels of all edges lie side by side in one array a type, (k, k, C, E * C); so do
    all variables of layer types that run in `COPIES`, in a module of the type's name.
    Layer types whose edges are not computed together have a module for each edge,
    `edgeE_TYPE`.
    float_edges: for each convolution of `layer_types`, how many of the last edges have
    float weights.
    The other fields are those of `supernet.Supernet`.
    """

    channels: int  # of the state and of each edge's output
    stride: int
    layer_types: tuple[str, ...]
    scheme: Scheme
    arithmetic: Arithmetic
    float_edges: tuple[int, ...] | None = None
    edges: str = "shared"
    shared_statistics: bool = True
    bn_of_pools: bool = True

    @nn.compact
    def __call__(self, x, weights, *, train: bool):
        """x: (N, H, W, C); weights: (E, layer types). Returns (N, H', W', E, C)."""
        weights = weights.astype(self.arithmetic.dtype)
        kernels = self._kernels(x.shape[-1], len(weights))
        running = self._running(x.shape[-1], len(weights))
        # Whatever the form, the shared one makes all variables, so that checkpoints fit
        # all of them.
        compute = self._edge_by_edge
        if self.edges == "shared" or self.is_initializing():
            compute = self._shared
        return compute(
            x,
            weights,
            kernels=kernels,
            running=running,
            train=train,
        )

    @property
    def spec(self) -> EdgeSpec:
        """What the edges have in common."""
        return EdgeSpec(
            layer_types=self.layer_types,
            stride=self.stride,
            scheme=self.scheme,
            arithmetic=self.arithmetic,
            bn_of_pools=self.bn_of_pools,
        )

    def macs(self, x, y) -> tuple[int, int]:
        """(binary, float) multiply-accumulates of one image, of the convolutions that
        lie side by side.
        """
        binary = floats = 0
        for name, kernel in self.variables.get("params", {}).items():
            # The parameters of a module within, which has a row of the cost table for
            # itself.
            if not hasattr(kernel, "shape"):
                continue
            _, height, width, *_ = y.shape
            count = height * width * kernel.size
            if is_latent(name):
                binary += count
            else:
                floats += count
        return binary, floats

    def _shared(self, x, weights, *, kernels: dict, running: dict, train: bool):
        """`shared_edges` of the convolutions and poolings, and the modules of all other
        layer types.
        """
        spec, edges = self.spec, len(weights)
        # Convolutions and poolings.
        values = {name: variable.value for name, variable in running.items()}
        total, new = shared_edges(x, weights, kernels, values, spec=spec, train=train)
        if self._keeps_statistics(train):
            for name, variable in running.items():
                variable.value = new[name]

        # All others, which are modules.
        for index, name in enumerate(self.layer_types):
            how = spec.batching(name)
            column = weights[:, index]
            if how == COPIES:
                # One module for all edges, each of which reads its copy of the state
                # and writes its part.
                copies = self._module(name, name=name, copies=edges)
                tiled = jnp.tile(x, (1, 1, 1, edges))  # (N, H, W, E * C)
                y = copies(tiled, train=train)
                y = y.reshape(*y.shape[:3], edges, -1)  # (N, H', W', E, C)
                total = total + y * column[:, None]
            elif how is None:
                outputs = []
                for edge in range(edges):
                    layer = self._module(name, name=f"edge{edge}_{name}")
                    outputs.append(layer(x, train=train))
                y = jnp.stack(outputs, axis=3)
                total = total + y * column[:, None]

        # With zeroise alone nothing was added up.
        if total.ndim == 0:
            zeros = jnp.zeros_like(x[:, :: self.stride, :: self.stride])
            total = jnp.stack([zeros] * edges, axis=3)
        return total

    def _edge_by_edge(self, x, weights, *, kernels: dict, running: dict, train: bool):
        """`plain_edges` or `chosen_edges`, on each edge's part of the variables."""
        spec, count = self.spec, len(weights)
        # Modules made here for their fields, and unbound, as they run on parts of the
        # variables.
        modules = {}
        for name in self.layer_types:
            if spec.batching(name) in (COPIES, None):
                bound = self._module(name, name=f"one_{name}")
                modules[name] = bound.clone(parent=None, name=None)
        edges = Edges(spec=spec, modules=modules, train=train)
        params, stats = self._of_edges(kernels, running, count=count)

        if self.edges == "chosen":
            total, new = chosen_edges(
                x,
                weights,
                params=params,
                stats=stats,
                edges=edges,
            )
            choices = jnp.argmax(weights, axis=1)
        else:
            total, new = plain_edges(
                x,
                weights,
                params=params,
                stats=stats,
                edges=edges,
            )
            choices = None
        if self._keeps_statistics(train):
            self._keep(running, new=new, choices=choices)
        return total

    def _of_edges(
        self, kernels: dict, running: dict, *, count: int
    ) -> tuple[list[dict], list[dict]]:
        """Of each edge, {layer type: parameters} and {layer type: running statistics}."""
        params: list[dict] = [{} for _ in range(count)]
        stats: list[dict] = [{} for _ in range(count)]
        for edge in range(count):
            for name in self.layer_types:
                how = self.spec.batching(name)
                # Parts of arrays that this module has itself.
                if how == CONVOLUTION:
                    params[edge][name] = self._kernel(
                        kernels,
                        name=name,
                        edge=edge,
                        count=count,
                    )
                    index = self._conv_statistics(name, edge)
                    stats[edge][name] = _at(running["bn"].value, index)
                elif how == POOLING and self.bn_of_pools:
                    index = self._pool_statistics(name, edge)
                    stats[edge][name] = _at(running["pool_bn"].value, index)
                # Variables of modules.
                elif how in (COPIES, None):
                    part = functools.partial(
                        self._of_module,
                        name=name,
                        edge=edge,
                        count=count,
                    )
                    params[edge][name] = part("params")
                    stats[edge][name] = part("batch_stats")
        return params, stats

    def _of_module(self, collection: str, *, name: str, edge: int, count: int) -> dict:
        """An edge's part of the variables of a layer type that runs as a module."""
        variables: Any = unfreeze(dict(self.variables)).get(collection, {})
        if self.spec.batching(name) is None:
            return variables.get(f"edge{edge}_{name}", {})
        # Modules without such variables are not in the collection.
        side_by_side = variables.get(name, {})
        return jax.tree.map(lambda leaf: _part(leaf, edge, count=count), side_by_side)

    def _kernel(self, kernels: dict, *, name: str, edge: int, count: int) -> dict:
        """An edge's part of `latent_TYPE`, those of the first edges, or of
        `kernel_TYPE`, those of the last.
        """
        latent = kernels.get(f"latent_{name}")
        binary = 0
        if latent is not None:
            binary = latent.shape[-1] // self.channels
        if edge < binary:
            return {"latent": _part(latent, edge, count=binary)}
        floats = kernels[f"kernel_{name}"]
        return {"kernel": _part(floats, edge - binary, count=count - binary)}

    def _keep(self, running: dict, *, new: list[dict], choices) -> None:
        """Keeps the statistics that moved. choices: the layer that each edge chose;
        None where all of them ran.
        """
        spec = self.spec
        # In the arrays that this module has itself.
        if spec.convs:
            running["bn"].value = self._kept(
                running["bn"].value,
                new=new,
                names=spec.convs,
                choices=choices,
                index_of=self._conv_statistics,
            )
        if spec.pools and self.bn_of_pools:
            value = running["pool_bn"].value
            for name in spec.pools:
                value = self._kept(
                    value,
                    new=new,
                    names=[name],
                    choices=choices,
                    index_of=self._pool_statistics,
                )
            running["pool_bn"].value = value

        # In the modules of layer types.
        for name in self.layer_types:
            how = spec.batching(name)
            if how == COPIES and new[0][name]:
                of_edges = [of_edge[name] for of_edge in new]
                together = jax.tree.map(_side_by_side, *of_edges)
                self.put_variable("batch_stats", name, value=together)
            elif how is None:
                for edge, of_edge in enumerate(new):
                    if of_edge[name]:
                        path = f"edge{edge}_{name}"
                        self.put_variable("batch_stats", path, value=of_edge[name])

    def _kept(
        self, value: dict, *, new: list[dict], names: list[str], choices, index_of
    ) -> dict:
        """The statistics `value` of these layer types with what moved.

        Where edges share them, those of any edge that ran.

        value: {"mean", "var"}. new: of each edge, {layer type: its {"mean", "var"}}.
        index_of: (layer type, edge) to where its statistics lie in the arrays of
        `value`.
        """
        value = jax.tree.map(jnp.asarray, value)
        if not self.shared_statistics:
            for edge, of_edge in enumerate(new):
                for name in names:
                    index = index_of(name, edge)
                    for leaf, moved in of_edge[name].items():
                        value[leaf] = value[leaf].at[index].set(moved)
            return value

        # Of each edge and type, (E * types, C).
        rows = {}
        for leaf in value:
            of_edges = []
            for of_edge in new:
                of_edges += [of_edge[name][leaf] for name in names]
            rows[leaf] = jnp.stack(of_edges)

        # The first that ran; where none did, the first of all, whose statistics are the
        # old ones.
        ran = jnp.zeros((), jnp.int32)
        if choices is not None:
            columns = jnp.array([self.layer_types.index(name) for name in names])
            chosen = choices[:, None] == columns  # (E, types)
            ran = jnp.argmax(chosen.reshape(-1))
        index = index_of(names[0], 0)
        for leaf, array in value.items():
            value[leaf] = array.at[index].set(rows[leaf][ran])
        return value

    def _conv_statistics(self, name: str, edge: int) -> tuple:
        """Where an edge's statistics lie in `running["bn"]`: (C,), or (types, E, C)."""
        if self.shared_statistics:
            return (...,)
        return self.spec.convs.index(name), edge

    def _pool_statistics(self, name: str, edge: int) -> tuple:
        """Where an edge's statistics lie in `running["pool_bn"]`: (types * C,), or (E,
        types * C).
        """
        first = self.spec.pools.index(name) * self.channels
        part = slice(first, first + self.channels)
        if self.shared_statistics:
            return (part,)
        return edge, part

    def _keeps_statistics(self, train: bool) -> bool:
        # As in `normalization.BatchNorm`.
        return (
            train
            and not self.is_initializing()
            and self.is_mutable_collection("batch_stats")
        )

    def _kernels(self, channels: int, edges: int) -> dict:
        """The parameters `latent_TYPE` and, for edges that stay float, `kernel_TYPE`."""
        spec, dtype = self.spec, self.arithmetic.dtype
        kernels = {}
        counts = self.float_edges or (0,) * len(spec.convs)
        for name, floats in zip(spec.convs, counts, strict=True):
            size = spec.conv_type(name).kernel
            # Under the scheme `float`, and in a first stage of two, all of them.
            if not self.scheme.binary_weights:
                floats = edges
            for prefix, count in (("latent", edges - floats), ("kernel", floats)):
                if count == 0:
                    continue
                shape = (size, size, channels, count * self.channels)
                parameter = f"{prefix}_{name}"
                kernels[parameter] = self.param(parameter, uniform_fan_in, shape, dtype)
        return kernels

    def _running(self, channels: int, edges: int) -> dict:
        """The running statistics `bn` of the convolutions' input and `pool_bn` of the
        poolings.
        """
        spec = self.spec
        shapes: dict[str, tuple[int, ...]] = {}
        if spec.convs:
            shapes["bn"] = (len(spec.convs), edges, channels)
        if spec.pools and self.bn_of_pools:
            shapes["pool_bn"] = (edges, len(spec.pools) * channels)
        running = {}
        for name, shape in shapes.items():
            # All edges see the same batches, so that one copy is enough.
            if self.shared_statistics:
                shape = shape[-1:]
            running[name] = self.variable(
                "batch_stats", name, initial_statistics, shape, self.arithmetic.dtype
            )
        return running

    def _module(self, kind: str, *, name: str, **options) -> nn.Module:
        """The module of a layer type of one edge, or of `copies` edges."""
        return layer_type(kind).module(
            features=self.channels,
            stride=self.stride,
            scheme=self.scheme,
            arithmetic=self.arithmetic,
            search=True,
            binary_weights=True,
            name=name,
            **options,
        )


def _part(leaf, index: int, *, count: int):
    """The part of an array whose last axis has `count` equal ones."""
    size = leaf.shape[-1] // count
    return leaf[..., index * size : (index + 1) * size]


def _side_by_side(*leaves):
    """The inverse of `_part`: one array of all parts."""
    return jnp.concatenate(leaves, axis=-1)


def _at(running: dict, index: tuple) -> dict:
    """{"mean", "var"} of an edge."""
    return {name: value[index] for name, value in running.items()}
