"""The supernet as the plain sum over edges that it stands for: every edge has layers of its own, and nothing is shared."""

import flax.linen as nn
import jax.numpy as jnp

from bnas_jax.core import alphas as alphas_lib
from bnas_jax.core.cell import InterCellSkip, Preprocess
from bnas_jax.core.genotype import EDGES, INPUTS, NODES, reductions
from bnas_jax.core.layers import BatchNorm, Layer, layer_type
from bnas_jax.core.network import CifarStem, Classifier
from bnas_jax.core.rules import Rules
from bnas_jax.core.supernet import Supernet, supernet_float_edges


class PlainEdge(nn.Module):
    """All layer types on one edge, weighted; a pooling is followed by BN."""

    channels: int
    stride: int
    layer_types: tuple[str, ...]
    rules: Rules
    binary: tuple[bool, ...]  # for each type with weights

    @nn.compact
    def __call__(self, x, weights, *, train: bool):
        binary = iter(self.binary)
        total = 0
        for name, weight in zip(self.layer_types, weights, strict=True):
            learnable = layer_type(name).learnable
            layer = Layer(name, self.channels, self.stride, self.rules, not learnable or next(binary), affine=False, name=name)
            y = layer(x, train=train)
            if "pool" in name:
                y = BatchNorm(self.rules, affine=False, name=f"{name}_bn")(y, train=train)
            total = total + weight * y
        return total


class PlainCell(nn.Module):
    channels: int
    reduction: bool
    previous_reduction: bool
    first: bool
    net: Supernet
    float_edges: tuple[tuple[int, ...], ...]

    @nn.compact
    def __call__(self, before, previous, weights, *, train: bool):
        net = self.net
        preprocess = Preprocess(
            self.channels, self.previous_reduction, net.rules, (False, False), (False, False), sign=False, name="preprocess"
        )
        states = list(preprocess(before, previous, train=train))
        for node in range(INPUTS, INPUTS + NODES):
            total = 0
            for index, (source, target) in enumerate(EDGES):
                if target == node:
                    edge = PlainEdge(
                        self.channels,
                        2 if self.reduction and source < INPUTS else 1,
                        net.layer_types,
                        net.rules,
                        binary_types(index, self.float_edges[source]),
                        name=f"edge{index}",
                    )
                    total = total + edge(states[source], weights[index], train=train)
            states.append(total)
        output = jnp.concatenate(states[INPUTS:], axis=-1)
        if net.skip and not self.first:
            output = InterCellSkip(self.reduction, net.rules, name="skip")(output, previous, train=train)
        return output


class PlainSupernet(nn.Module):
    """The same function as `net`."""

    net: Supernet

    @nn.compact
    def __call__(self, alphas, images, *, train: bool = False):
        net = self.net
        weights = alphas_lib.relax(alphas)
        before, previous = CifarStem(net.channels, net.rules, name="stem")(images, train=train)
        for index in range(net.num_cells):
            reduction = index in reductions(net.num_cells)
            cell = PlainCell(
                width(net, index),
                reduction,
                index - 1 in reductions(net.num_cells),
                index == 0,
                net,
                supernet_float_edges(net)[index],
                name=f"cell{index}",
            )
            before, previous = previous, cell(before, previous, weights["reduce" if reduction else "normal"], train=train)
        return Classifier(net.num_classes, net.rules, name="classifier")(previous)


def width(net: Supernet, cell: int) -> int:
    return net.channels * 2 ** sum(r <= cell for r in reductions(net.num_cells))


def leaving(source: int) -> list[int]:
    return [edge for edge, (start, _) in enumerate(EDGES) if start == source]


def binary_types(edge: int, float_edges: tuple[int, ...]) -> tuple[bool, ...]:
    """Which types are binarized on an edge: of those that leave its state the last `float_edges` of a type are not."""
    edges = leaving(EDGES[edge][0])
    return tuple(edges.index(edge) < len(edges) - count for count in float_edges)


def plain_params(net: Supernet, params) -> dict:
    """The parameters of `net` for `PlainSupernet`: each edge's slice of the wide kernels. Gradients likewise."""
    plain = {name: params[name] for name in ("stem", "classifier")}
    for index in range(net.num_cells):
        cell = params[f"cell{index}"]
        plain[f"cell{index}"] = {name: value for name, value in cell.items() if not name.startswith("state")}
        for source in range(INPUTS + NODES - 1):
            for edge in leaving(source):
                plain[f"cell{index}"][f"edge{edge}"] = _edge_params(net, index, source, edge, cell[f"state{source}"])
    return plain


def _edge_params(net: Supernet, cell: int, source: int, edge: int, state) -> dict:
    names = [name for name in net.layer_types if layer_type(name).learnable]
    float_edges = supernet_float_edges(net)[cell][source]
    result = {}
    for name, binary, count in zip(names, binary_types(edge, float_edges), float_edges, strict=True):
        position = leaving(source).index(edge) - (0 if binary else len(leaving(source)) - count)
        leaf = "latent" if binary else "kernel"
        columns = slice(position * width(net, cell), (position + 1) * width(net, cell))
        result[name] = {"op": {"conv": {leaf: state[f"{leaf}_{name}"][..., columns]}}}
    return result


def plain_statistics(net: Supernet, statistics) -> dict:
    """The running statistics of `net`, shared by the edges of a state or one for each, for `PlainSupernet`."""
    plain = {"stem": statistics["stem"]}
    for index in range(net.num_cells):
        cell = statistics[f"cell{index}"]
        plain[f"cell{index}"] = {name: value for name, value in cell.items() if not name.startswith("state")}
        for source in range(INPUTS + NODES - 1):
            for position, edge in enumerate(leaving(source)):
                plain[f"cell{index}"][f"edge{edge}"] = _edge_statistics(net, position, cell[f"state{source}"])
    return plain


def _edge_statistics(net: Supernet, position: int, state) -> dict:
    own = lambda values, *index: {name: value if net.shared_statistics else value[index] for name, value in values.items()}
    names = [name for name in net.layer_types if layer_type(name).learnable]
    result = {name: {"op": {"bn": own(state["bn"], row, position)}} for row, name in enumerate(names)}
    return result | {name: own(values, position) for name, values in state.items() if name != "bn"}
