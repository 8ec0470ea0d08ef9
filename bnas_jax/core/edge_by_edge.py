"""The edges that leave one state, computed one by one.

`plain_edges` is the sum of DARTS Eq. 2 as the paper prints it. `chosen_edges` runs only
the layer with the largest weight on each edge. Both call `Edges.layer` with that edge's
part of the variables of `mixed_edges.MixedEdges`.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bnas_jax.core.edge_spec import EdgeSpec
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import ZEROISE
from bnas_jax.core.layers import CONVOLUTION, NOTHING, POOLING
from bnas_jax.core.ops.batch_norm import batch_norm
from bnas_jax.core.schemes.binary_conv import binary_conv, float_weight_conv

# Of one edge: {layer type: parameters} and {layer type: running statistics}.
Params = dict[str, Any]
Statistics = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Edges:
    """The layers of the edges that leave a state.

    spec: the settings that the edges share.
    modules: {layer type: its unbound module for one edge}, for the layer types that run
        as modules.
    train: whether BN takes the batch's statistics.
    """

    spec: EdgeSpec
    modules: Mapping[str, nn.Module]
    train: bool

    def layer(
        self, name: str, x, params: Params, stats: Statistics
    ) -> tuple[jax.Array, Statistics]:
        """The output of one layer type on one edge.

        Returns (output, (N, H', W', C); the edge's updated running statistics).

        x: the state, (N, H, W, C).
        params, stats: the edge's parameters and running statistics.
        """
        how = self.spec.batching(name)
        if how == NOTHING:
            stride = self.spec.stride
            return jnp.zeros_like(x[:, ::stride, ::stride]), stats

        # Convolutions and poolings, whose variables `EdgeVariables` has cut out of the
        # arrays of all edges.
        if how == CONVOLUTION:
            normal, moved = self._normal(x, stats[name])
            y = self._conv(name, normal=normal, kernel=params[name])
            return y, {**stats, name: moved}
        if how == POOLING:
            y = self.spec.pool(name, x)
            if not self.spec.bn_of_pools:
                return y, stats
            y, moved = self._normal(y, stats[name])
            return y, {**stats, name: moved}

        # All other layers run as modules, as they do in the final network.
        variables = {"params": params[name], "batch_stats": stats[name]}
        module: Any = self.modules[name]
        y, moved = module.apply(variables, x, train=self.train, mutable=["batch_stats"])
        # An identity has no BN, and so no statistics.
        kept = moved.get("batch_stats", stats[name])
        return y, {**stats, name: kept}

    def _normal(self, x, running):
        """(x normalised, the updated running statistics)."""
        return batch_norm(x, running, arithmetic=self.spec.arithmetic, train=self.train)

    def _conv(self, name: str, *, normal, kernel: dict):
        """The convolution of a normalised state: (N, H, W, C) to (N, H', W', C).

        kernel: {"latent": (k, k, C, C)}, or {"kernel": (k, k, C, C)} if it stays float.
        """
        common: dict[str, Any] = {
            "scheme": self.spec.scheme,
            "geometry": self.spec.geometry(name),
            "arithmetic": self.spec.arithmetic,
        }
        if "latent" in kernel:
            return binary_conv(normal, kernel["latent"], **common)
        return float_weight_conv(normal, kernel["kernel"], binary_input=True, **common)


def plain_edges(
    x, weights, params: list[Params], stats: list[Statistics], *, edges: Edges
):
    """Each edge's sum of weight * layer(x) over the layer types (DARTS Eq. 2).

    Returns (sums, (N, H', W', E, C); each edge's updated running statistics).

    x: the state, (N, H, W, C).
    weights: (E, layer types).
    params, stats: the parameters and running statistics of each edge.
    """
    mixed, new = [], []
    for edge, edge_stats in enumerate(stats):
        # DARTS Eq. 2. Each layer updates its part of the edge's statistics.
        total = jnp.zeros((), x.dtype)
        for column, name in enumerate(edges.spec.layer_types):
            if edges.spec.batching(name) == NOTHING:
                continue
            y, edge_stats = edges.layer(name, x, params=params[edge], stats=edge_stats)
            total = total + weights[edge, column] * y

        # If all types are zeroise, the sum is still a scalar: take zeros instead.
        if total.ndim == 0:
            total, _ = edges.layer(ZEROISE, x, params={}, stats={})
        mixed.append(total)
        new.append(edge_stats)
    return jnp.stack(mixed, axis=3), new


def chosen_edges(
    x, weights, params: list[Params], stats: list[Statistics], *, edges: Edges
):
    """`plain_edges` for one-hot weights: only the layer with the largest weight runs.

    In GDAS each row of the weights has at most one entry that is not 0. The output of
    an edge is w_k * layer_k(x), where k is the layer type with the largest weight. The
    other weights get no gradient, and the other layers keep their running statistics.
    Arguments and results are those of `plain_edges`.

    Raises `UserError` where some edges have float weights and others binary weights,
    because a single loop runs all edges.
    """
    # One loop needs parameters of the same names on all edges.
    for of_edge in params:
        if any(set(of_edge[name]) != set(params[0][name]) for name in of_edge):
            raise UserError(
                "config.network.edges=chosen runs edges of the same kind, and "
                "config.network.float_head leaves some float; write "
                "config.network.float_head=False"
            )

    # `run` computes the chosen layer of an edge.
    spec = edges.spec
    layers = [functools.partial(edges.layer, name) for name in spec.layer_types]
    run = only(layers, plain=spec.arithmetic.plain)

    def run_edge(_, edge):
        """A step of `lax.scan`, without a carry."""
        row, edge_params, edge_stats = edge
        choice = jnp.argmax(row)
        y, moved = run(choice, x, params=edge_params, stats=edge_stats)
        # The weight is 1; multiplying by it passes alpha its gradient.
        weighted = row[choice] * y  # (N, H', W', C)
        return None, (weighted, moved)

    # A loop over the edges, so that XLA compiles the layers once, not once per edge.
    all_params = jax.tree.map(_stacked, *params)
    all_stats = jax.tree.map(_stacked, *stats)
    _, (mixed, new) = jax.lax.scan(
        run_edge, init=None, xs=(weights, all_params, all_stats)
    )
    # (E, N, H', W', C) to (N, H', W', E, C), and statistics edge by edge again.
    split = [_of_index(new, edge) for edge in range(len(stats))]
    return jnp.moveaxis(mixed, source=0, destination=3), split


def _stacked(*leaves):
    """One array of the leaves, along a new first axis."""
    return jnp.stack(leaves)


def _of_index(tree, index: int):
    """The entry `index` of each leaf's first axis."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def only(layers: Sequence[Callable], *, plain: bool) -> Callable:
    """A function `run(choice, x, params, stats)` that computes a single layer.

    It returns `layers[choice](x, params, stats)`. JAX's own gradient of `lax.switch`
    stores the intermediate values of all layers, with zeros for those that did not run.
    Here only the inputs are stored, and the backward pass recomputes the chosen layer.

    plain: True takes JAX's own gradient, which has derivatives of any order.
    """

    def switch(choice, x, params, stats):
        return jax.lax.switch(choice, layers, x, params, stats)

    if plain:
        return switch

    # The gradient of each layer, from its inputs and its output's gradient.
    gradients = [functools.partial(_gradient, layer) for layer in layers]

    @jax.custom_vjp
    def run(choice, x, params, stats):
        return switch(choice, x, params, stats)

    def forward(choice, x, params, stats):
        return switch(choice, x, params, stats), (choice, x, params, stats)

    def backward(residuals, gradient):
        choice, *inputs = residuals
        # Neither the running statistics nor the choice has a gradient.
        of_output, _ = gradient
        to_x, to_params = jax.lax.switch(choice, gradients, *inputs, of_output)
        return None, to_x, to_params, None

    run.defvjp(forward, backward)
    return run


def _gradient(layer: Callable, x, params, stats, gradient):
    """The gradients with respect to x and to a layer's parameters.

    gradient: with respect to the layer's output.
    """

    def output(x, params):
        y, _ = layer(x, params, stats)
        return y

    _, vjp = jax.vjp(output, x, params)
    return vjp(gradient)
