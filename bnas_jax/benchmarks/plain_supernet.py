"""The supernet as the plain sum over edges that it stands for: every edge has layers of its own, and nothing is shared."""

from collections.abc import Callable

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


class PlainSupernet:
    """In place of a `Supernet`: the same function with the same first parameters, in trees of `plain_variables`."""

    def __init__(self, *arguments):
        self._net = Supernet(*arguments)
        self.rules = self._net.rules

    def init(self, key, alphas, images, *, train: bool) -> dict:
        return plain_variables(self._net, self._net.init(key, alphas, images, train=train))

    def apply(self, variables, alphas, images, *, train: bool, mutable=(), for_alphas: None = None):
        del for_alphas  # a plain half knows what it is
        logits, after = plain_supernet(self._net, variables, alphas, images, train=train)
        return (logits, {"batch_stats": after}) if mutable else logits


def call(module: nn.Module, variables, inputs, train: bool):
    """The module's outputs and its running statistics afterwards."""
    if not train:
        return module.apply(variables, *inputs, train=False), {}
    y, new = module.apply(variables, *inputs, train=True, mutable=["batch_stats"])
    return y, new.get("batch_stats", {})


def plain_supernet(net: Supernet, variables, alphas, images, *, train: bool, call: Callable = call):
    """Logits as of `net`, and the running statistics after a training pass. variables: see `plain_variables`.

    call: what runs each module, for instance a jitted `call`.
    """
    after: dict = {}

    def run(module, path, *inputs):
        own = {kind: _at(tree, path) for kind, tree in variables.items() if _at(tree, path)}
        y, statistics = call(module, own, inputs, train)
        if statistics:
            after.setdefault(path[0], {}).update({path[1]: statistics} if path[1:] else statistics)
        return y

    def cell(index, before, previous, weights):
        reduction, after_reduction = index in reductions(net.num_cells), index - 1 in reductions(net.num_cells)
        channels, name = width(net, index), f"cell{index}"
        preprocess = Preprocess(channels, after_reduction, net.rules, (False, False), (False, False), sign=False)
        states = list(run(preprocess, (name, "preprocess"), before, previous))
        for node in range(INPUTS, INPUTS + NODES):
            total = 0
            for edge, (source, target) in enumerate(EDGES):
                if target == node:
                    stride = 2 if reduction and source < INPUTS else 1
                    binary = binary_types(edge, supernet_float_edges(net)[index][source])
                    plain_edge = PlainEdge(channels, stride, net.layer_types, net.rules, binary)
                    total = total + run(plain_edge, (name, f"edge{edge}"), states[source], weights[edge])
            states.append(total)
        output = jnp.concatenate(states[INPUTS:], axis=-1)
        return run(InterCellSkip(reduction, net.rules), (name, "skip"), output, previous) if net.skip and index > 0 else output

    weights = alphas_lib.relax(alphas)
    before, previous = run(CifarStem(net.channels, net.rules), ("stem",), images)
    for index in range(net.num_cells):
        kind = "reduce" if index in reductions(net.num_cells) else "normal"
        before, previous = previous, cell(index, before, previous, weights[kind])
    classifier = Classifier(net.num_classes, net.rules)
    return classifier.apply({"params": variables["params"]["classifier"]}, previous), after


def _at(tree, path):
    for name in path:
        tree = tree.get(name, {})
    return tree


def width(net: Supernet, cell: int) -> int:
    return net.channels * 2 ** sum(r <= cell for r in reductions(net.num_cells))


def leaving(source: int) -> list[int]:
    return [edge for edge, (start, _) in enumerate(EDGES) if start == source]


def binary_types(edge: int, float_edges: tuple[int, ...]) -> tuple[bool, ...]:
    """Which types are binarized on an edge: of those that leave its state the last `float_edges` of a type are not."""
    edges = leaving(EDGES[edge][0])
    return tuple(edges.index(edge) < len(edges) - count for count in float_edges)


def plain_variables(net: Supernet, variables) -> dict:
    """Variables of `net`, or some collections of them, or gradients, for `plain_supernet`: each edge's part by itself."""
    split = {"params": _edge_params, "batch_stats": _edge_statistics}
    return {kind: _split(net, tree, split[kind]) for kind, tree in variables.items()}


def _split(net: Supernet, tree, of_edge) -> dict:
    plain = {}
    for top, part in tree.items():
        plain[top] = {name: value for name, value in part.items() if not name.startswith("state")}
        if top.startswith("cell"):
            for edge, (source, _) in enumerate(EDGES):
                plain[top][f"edge{edge}"] = of_edge(net, int(top.removeprefix("cell")), edge, part[f"state{source}"])
    return plain


def _learnable(net: Supernet) -> list[str]:
    return [name for name in net.layer_types if layer_type(name).learnable]


def _edge_params(net: Supernet, cell: int, edge: int, state) -> dict:
    """The edge's slices of the wide kernels."""
    source, channels = EDGES[edge][0], width(net, cell)
    float_edges = supernet_float_edges(net)[cell][source]
    result = {}
    for name, binary, count in zip(_learnable(net), binary_types(edge, float_edges), float_edges, strict=True):
        position = leaving(source).index(edge) - (0 if binary else len(leaving(source)) - count)
        leaf = "latent" if binary else "kernel"
        kernel = state[f"{leaf}_{name}"][..., position * channels : (position + 1) * channels]
        result[name] = {"op": {"conv": {leaf: kernel}}}
    return result


def _edge_statistics(net: Supernet, cell: int, edge: int, state) -> dict:
    """Running statistics, which the edges of a state share or have one by one."""
    position = leaving(EDGES[edge][0]).index(edge)
    own = lambda values, *index: {name: value if net.shared_statistics else value[index] for name, value in values.items()}
    convs = {name: {"op": {"bn": own(state["bn"], row, position)}} for row, name in enumerate(_learnable(net))}
    poolings = [name for name in net.layer_types if "pool" in name]
    if not poolings:
        return convs
    parts = {name: jnp.split(own(state["pool_bn"], position)[name], len(poolings), axis=-1) for name in ("mean", "var")}
    return convs | {f"{name}_bn": {of: part[row] for of, part in parts.items()} for row, name in enumerate(poolings)}
