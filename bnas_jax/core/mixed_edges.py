"""All edges that leave one state of the search's network, with their variables in one layout for every form of edges."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import unfreeze

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.edge_by_edge import Edges, chosen_edges, plain_edges
from bnas_jax.core.layers import CONVOLUTION, COPIES, POOLING, layer_type
from bnas_jax.core.modules import uniform_fan_in
from bnas_jax.core.ops.batch_norm import initial_statistics
from bnas_jax.core.schemes import Scheme
from bnas_jax.core.shared_edges import EdgeSpec, shared_edges


class MixedEdges(nn.Module):
    """All edges that leave one state: each the weighted sum of its layer types' outputs.

    Kernels of all edges lie side by side in one array a type, (k, k, C, edges * C); so do all variables of layer types that
    run in `COPIES`, in a module of the type's name. Layer types that do not join have a module for each edge, `edgeE_TYPE`.
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
    bn_of_pools: bool = True

    @nn.compact
    def __call__(self, x, weights, *, train: bool):
        """x: (N, H, W, C); weights: (E, layer types). Returns (N, H', W', E, C)."""
        weights = weights.astype(self.arithmetic.dtype)
        kernels = self._kernels(x.shape[-1], len(weights))
        running = self._running(x.shape[-1], len(weights))
        # The shared form makes all variables.
        if self.edges == "shared" or self.is_initializing():
            return self._shared(x, weights, kernels, running, train=train)
        return self._edge_by_edge(x, weights, kernels, running, train=train)

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

    def _shared(self, x, weights, kernels: dict, running: dict, *, train: bool):
        spec, edges = self.spec, len(weights)
        values = {name: variable.value for name, variable in running.items()}
        total, new = shared_edges(x, weights, kernels, values, spec=spec, train=train)
        self._move(running, new, train=train)
        for index, name in enumerate(self.layer_types):
            how, column = spec.how(name), weights[:, index]
            if how == COPIES:
                copies = self._module(name, name=name, copies=edges)
                y = copies(jnp.tile(x, (1, 1, 1, edges)), train=train)
                total = total + y.reshape(*y.shape[:3], edges, -1) * column[:, None]
            elif how is None:
                outputs = [
                    self._module(name, name=f"edge{edge}_{name}")(x, train=train)
                    for edge in range(edges)
                ]
                total = total + jnp.stack(outputs, axis=3) * column[:, None]
        if total.ndim == 0:
            # Zeroise alone
            zeros = jnp.zeros_like(x[:, :: self.stride, :: self.stride])
            total = jnp.stack([zeros] * edges, axis=3)
        return total

    def _edge_by_edge(self, x, weights, kernels: dict, running: dict, *, train: bool):
        spec, count = self.spec, len(weights)
        with_modules = [name for name in self.layer_types if spec.how(name) in (COPIES, None)]
        # Made here for their fields, and unbound, as they run on parts of the variables.
        modules = {
            name: self._module(name, name=f"one_{name}").clone(parent=None, name=None)
            for name in with_modules
        }
        edges = Edges(spec=spec, modules=modules, train=train)
        params, stats = self._of_edges(kernels, running, count)
        compute = chosen_edges if self.edges == "chosen" else plain_edges
        total, new = compute(x, weights, params, stats, edges=edges)
        if self._keeps_statistics(train):
            choices = jnp.argmax(weights, axis=1) if self.edges == "chosen" else None
            self._keep(running, new, choices)
        return total

    def _of_edges(self, kernels: dict, running: dict, count: int) -> tuple[list[dict], list[dict]]:
        """Of each edge, {layer type: parameters} and {layer type: running statistics}."""
        spec = self.spec
        own: Any = unfreeze(dict(self.variables))
        params: list[dict] = [{} for _ in range(count)]
        stats: list[dict] = [{} for _ in range(count)]
        for edge in range(count):
            for name in self.layer_types:
                how = spec.how(name)
                if how == CONVOLUTION:
                    params[edge][name] = self._kernel(kernels, name, edge, count)
                    stats[edge][name] = _at(running["bn"].value, self._conv_statistics(name, edge))
                elif how == POOLING and self.bn_of_pools:
                    stats[edge][name] = _at(
                        running["pool_bn"].value, self._pool_statistics(name, edge)
                    )
                elif how == COPIES:
                    for found, collection in ((params, "params"), (stats, "batch_stats")):
                        side_by_side = own.get(collection, {}).get(name, {})
                        found[edge][name] = jax.tree.map(
                            lambda leaf, e=edge: _part(leaf, e, count), side_by_side
                        )
                elif how is None:
                    for found, collection in ((params, "params"), (stats, "batch_stats")):
                        found[edge][name] = own.get(collection, {}).get(f"edge{edge}_{name}", {})
        return params, stats

    def _kernel(self, kernels: dict, name: str, edge: int, count: int) -> dict:
        """An edge's part of `latent_TYPE`, those of the first edges, or of `kernel_TYPE`, those of the last."""
        latent = kernels.get(f"latent_{name}")
        binary = 0 if latent is None else latent.shape[-1] // self.channels
        if edge < binary:
            return {"latent": _part(latent, edge, binary)}
        return {"kernel": _part(kernels[f"kernel_{name}"], edge - binary, count - binary)}

    def _keep(self, running: dict, new: list[dict], choices) -> None:
        """Keeps the statistics that moved. choices: the layer that each edge chose; None where all of them ran."""
        spec = self.spec
        if spec.convs:
            running["bn"].value = self._kept(
                running["bn"].value, new, spec.convs, choices, self._conv_statistics
            )
        if spec.pools and self.bn_of_pools:
            value = running["pool_bn"].value
            for name in spec.pools:
                value = self._kept(value, new, [name], choices, self._pool_statistics)
            running["pool_bn"].value = value
        for name in self.layer_types:
            how = spec.how(name)
            if how == COPIES and new[0][name]:
                together = jax.tree.map(
                    lambda *leaves: jnp.concatenate(leaves, axis=-1), *(of[name] for of in new)
                )
                self.put_variable("batch_stats", name, together)
            elif how is None:
                for edge, of_edge in enumerate(new):
                    if of_edge[name]:
                        self.put_variable("batch_stats", f"edge{edge}_{name}", of_edge[name])

    def _kept(self, value: dict, new: list[dict], names: list[str], choices, index_of) -> dict:
        """The statistics `value` of these layer types with what moved. Where edges share them, those of any edge that ran."""
        value = jax.tree.map(jnp.asarray, value)
        if not self.shared_statistics:
            for edge, of_edge in enumerate(new):
                for name in names:
                    moved = of_edge[name]
                    value = {
                        leaf: value[leaf].at[index_of(name, edge)].set(moved[leaf])
                        for leaf in value
                    }
            return value
        index = index_of(names[0], 0)
        rows = {leaf: jnp.stack([of[name][leaf] for of in new for name in names]) for leaf in value}
        ran = jnp.zeros((), jnp.int32)
        if choices is not None:
            columns = jnp.array([self.layer_types.index(name) for name in names])
            ran = jnp.argmax((choices[:, None] == columns).reshape(-1))
        return {leaf: value[leaf].at[index].set(rows[leaf][ran]) for leaf in value}

    def _conv_statistics(self, name: str, edge: int) -> tuple:
        """Where an edge's statistics lie in `running["bn"]`: (C,), or (types, edges, C)."""
        return (...,) if self.shared_statistics else (self.spec.convs.index(name), edge)

    def _pool_statistics(self, name: str, edge: int) -> tuple:
        """Where an edge's statistics lie in `running["pool_bn"]`: (types * C,), or (edges, types * C)."""
        first = self.spec.pools.index(name) * self.channels
        part = slice(first, first + self.channels)
        return (part,) if self.shared_statistics else (edge, part)

    def _move(self, running: dict, new: dict, *, train: bool) -> None:
        if self._keeps_statistics(train):
            for name, variable in running.items():
                variable.value = new[name]

    def _keeps_statistics(self, train: bool) -> bool:
        return train and not self.is_initializing() and self.is_mutable_collection("batch_stats")

    def _kernels(self, channels: int, edges: int) -> dict:
        """The parameters `latent_TYPE` and, for edges that stay float, `kernel_TYPE`."""
        spec = self.spec
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
                    kernels[parameter] = self.param(
                        parameter, uniform_fan_in, shape, self.arithmetic.dtype
                    )
        return kernels

    def _running(self, channels: int, edges: int) -> dict:
        """The running statistics `bn` of the convolutions' input and `pool_bn` of the poolings."""
        spec = self.spec
        shapes: dict[str, tuple[int, ...]] = {}
        if spec.convs:
            shapes["bn"] = (len(spec.convs), edges, channels)
        if spec.pools and self.bn_of_pools:
            shapes["pool_bn"] = (edges, len(spec.pools) * channels)
        running = {}
        for name, shape in shapes.items():
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


def _part(leaf, index: int, count: int):
    """The part of an array whose last axis has `count` equal ones."""
    size = leaf.shape[-1] // count
    return leaf[..., index * size : (index + 1) * size]


def _at(running: dict, index: tuple) -> dict:
    return {name: value[index] for name, value in running.items()}
