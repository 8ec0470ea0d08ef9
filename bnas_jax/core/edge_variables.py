"""How the variables of `mixed_edges.MixedEdges` are divided among the edges.

`MixedEdges` keeps the variables of all edges that leave a state in common arrays.
`plain_edges` and `chosen_edges` need them edge by edge: `EdgeVariables` cuts the part
of each edge out of the arrays, and writes the updated running statistics back.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from bnas_jax.core.edge_by_edge import Params, Statistics
from bnas_jax.core.edge_spec import EdgeSpec
from bnas_jax.core.layers import CONVOLUTION, COPIES, POOLING


@dataclasses.dataclass(frozen=True)
class EdgeVariables:
    """Which part of the common arrays belongs to which edge.

    spec: the settings that the edges share.
    channels: the channels of the state, and of each edge's output.
    edges: how many edges leave the state.
    shared_statistics: whether all edges share one set of running statistics.
    """

    spec: EdgeSpec
    channels: int
    edges: int
    shared_statistics: bool

    def split(
        self, kernels: dict, running: dict, variables: dict
    ) -> tuple[list[Params], list[Statistics]]:
        """The variables edge by edge.

        Returns two lists with an entry for each edge: {layer type: parameters} and
        {layer type: running statistics}.

        kernels: the parameters `latent_TYPE` and `kernel_TYPE`.
        running: the running statistics `bn` and `pool_bn`.
        variables: all variables of the module, {"params", "batch_stats"}.
        """
        params: list[Params] = [{} for _ in range(self.edges)]
        stats: list[Statistics] = [{} for _ in range(self.edges)]
        for edge in range(self.edges):
            for name in self.spec.layer_types:
                how = self.spec.batching(name)
                # Parts of the common arrays.
                if how == CONVOLUTION:
                    params[edge][name] = self._kernel(kernels, name=name, edge=edge)
                    index = self._conv_statistics(name, edge)
                    stats[edge][name] = _statistics_at(running["bn"], index)
                elif how == POOLING and self.spec.bn_of_pools:
                    index = self._pool_statistics(name, edge)
                    stats[edge][name] = _statistics_at(running["pool_bn"], index)
                # Variables of the submodules.
                elif how in (COPIES, None):
                    params[edge][name] = self._within(
                        variables.get("params", {}), name=name, edge=edge
                    )
                    stats[edge][name] = self._within(
                        variables.get("batch_stats", {}), name=name, edge=edge
                    )
        return params, stats

    def moved(self, running: dict, new: list[Statistics], *, choices) -> dict:
        """The running statistics {"bn", "pool_bn"} after a batch.

        A key is left out where no layer type has such statistics.

        running: `bn` and `pool_bn` before the batch.
        new: for each edge, {layer type: its updated statistics}.
        choices: (E,), the index of the layer type that ran on each edge; None where all
            layer types ran.
        """
        spec = self.spec
        after = {}
        if spec.convs:
            after["bn"] = self._with_moved(
                running["bn"],
                new=new,
                names=spec.convs,
                choices=choices,
                index_of=self._conv_statistics,
            )
        if spec.pools and spec.bn_of_pools:
            value = running["pool_bn"]
            for name in spec.pools:
                value = self._with_moved(
                    value,
                    new=new,
                    names=[name],
                    choices=choices,
                    index_of=self._pool_statistics,
                )
            after["pool_bn"] = value
        return after

    def of_modules(self, new: list[Statistics]) -> dict:
        """{name of a submodule: its running statistics after a batch}.

        Submodules without statistics are left out.

        new: for each edge, {layer type: its updated statistics}.
        """
        statistics = {}
        for name in self.spec.layer_types:
            how = self.spec.batching(name)
            if how == COPIES and new[0][name]:
                of_edges = [of_edge[name] for of_edge in new]
                statistics[name] = jax.tree.map(_side_by_side, *of_edges)
            elif how is None:
                for edge, of_edge in enumerate(new):
                    if of_edge[name]:
                        statistics[module_name(name, edge)] = of_edge[name]
        return statistics

    def _within(self, variables: dict, *, name: str, edge: int) -> dict:
        """An edge's part of the variables of a layer type that runs as a module.

        variables: one collection of the module's variables.
        """
        if self.spec.batching(name) is None:
            return variables.get(module_name(name, edge), {})
        # A module without variables is not in the collection.
        side_by_side = variables.get(name, {})
        return jax.tree.map(
            lambda leaf: _part(leaf, edge, count=self.edges), side_by_side
        )

    def _kernel(self, kernels: dict, *, name: str, edge: int) -> dict:
        """An edge's kernel of a convolution type: {"latent" or "kernel": (k, k, C, C)}.

        The first edges are binary, with a part of `latent_TYPE`; the last ones are
        float, with a part of `kernel_TYPE`.
        """
        latent = kernels.get(f"latent_{name}")
        binary = 0  # how many edges have binary weights
        if latent is not None:
            binary = latent.shape[-1] // self.channels
        if edge < binary:
            return {"latent": _part(latent, edge, count=binary)}
        floats = kernels[f"kernel_{name}"]
        return {"kernel": _part(floats, edge - binary, count=self.edges - binary)}

    def _with_moved(
        self,
        value: dict,
        *,
        new: list[Statistics],
        names: list[str],
        choices,
        index_of: Callable,
    ) -> dict:
        """The running statistics `value`, updated for the layer types `names`.

        Where the edges share their statistics, all edges that ran have updated them
        alike, and the first of these is taken.

        value: {"mean", "var"} of all edges and layer types.
        new, choices: see `moved`.
        names: the layer types.
        index_of: (layer type, edge) to the index of its statistics in `value`.
        """
        value = jax.tree.map(jnp.asarray, value)

        # Each edge and layer type has statistics of its own.
        if not self.shared_statistics:
            for edge, of_edge in enumerate(new):
                for name in names:
                    index = index_of(name, edge)
                    for leaf, moved in of_edge[name].items():
                        value[leaf] = value[leaf].at[index].set(moved)
            return value

        # All edges share the statistics. A row for each edge and type, (E * types, C).
        rows = {}
        for leaf in value:
            of_edges = []
            for of_edge in new:
                of_edges += [of_edge[name][leaf] for name in names]
            rows[leaf] = jnp.stack(of_edges)

        # The first row of a layer that ran; if none did, row 0 has the old statistics.
        ran = jnp.zeros((), jnp.int32)
        if choices is not None:
            types = self.spec.layer_types
            columns = jnp.array([types.index(name) for name in names])
            chosen = choices[:, None] == columns  # (E, types)
            ran = jnp.argmax(chosen.reshape(-1))
        index = index_of(names[0], 0)
        for leaf, array in value.items():
            value[leaf] = array.at[index].set(rows[leaf][ran])
        return value

    def _conv_statistics(self, name: str, edge: int) -> tuple:
        """The index of an edge's statistics in `bn`: (C,), or (types, E, C)."""
        if self.shared_statistics:
            return (...,)
        return self.spec.convs.index(name), edge

    def _pool_statistics(self, name: str, edge: int) -> tuple:
        """The index of an edge's statistics in `pool_bn`.

        `pool_bn` is (types * C,), or (E, types * C).
        """
        first = self.spec.pools.index(name) * self.channels
        part = slice(first, first + self.channels)
        if self.shared_statistics:
            return (part,)
        return edge, part


def module_name(name: str, edge: int) -> str:
    """The name of an edge's module, where each edge has one of its own."""
    return f"edge{edge}_{name}"


def _part(leaf, index: int, *, count: int):
    """Part `index` of an array whose last axis has `count` equal parts."""
    size = leaf.shape[-1] // count
    return leaf[..., index * size : (index + 1) * size]


def _side_by_side(*leaves):
    """The inverse of `_part`: one array of all parts."""
    return jnp.concatenate(leaves, axis=-1)


def _statistics_at(running: dict, index: tuple) -> dict:
    """{"mean", "var"} at an index of the arrays of all edges."""
    return {name: value[index] for name, value in running.items()}
