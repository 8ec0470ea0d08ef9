"""The edges that leave one state, one by one: the plain sum of DARTS Eq. 2, and the form in which only the chosen layer runs.

Both compute a layer of an edge by `layer_of_edge`, from that edge's part of the variables that lie side by side.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import ZEROISE
from bnas_jax.core.layers import CONVOLUTION, NOTHING, POOLING
from bnas_jax.core.ops.batch_norm import batch_norm
from bnas_jax.core.schemes.scheme import binary_conv, float_weight_conv
from bnas_jax.core.shared_edges import EdgeSpec

# Of one edge, {layer type: its parameters} and {layer type: its running statistics}.
Params = dict[str, Any]
Statistics = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Edges:
    """The layers of the edges that leave a state.

    spec: what the edges have in common. modules: one edge's module of each layer type that has one, unbound.
    train: whether BN takes the batch's statistics.
    """

    spec: EdgeSpec
    modules: Mapping[str, nn.Module]
    train: bool

    def layer(
        self, name: str, x, params: Params, stats: Statistics
    ) -> tuple[jax.Array, Statistics]:
        """(a layer type's output for an edge, (N, H', W', C); the edge's running statistics after it)."""
        how = self.spec.how(name)
        if name == ZEROISE or how == NOTHING:
            stride = self.spec.stride
            return jnp.zeros_like(x[:, ::stride, ::stride]), stats
        if how == CONVOLUTION:
            normal, moved = self._normal(x, stats[name])
            return self._conv(name, normal, params[name]), {**stats, name: moved}
        if how == POOLING:
            y = self.spec.pool(name, x)
            if not self.spec.bn_of_pools:
                return y, stats
            y, moved = self._normal(y, stats[name])
            return y, {**stats, name: moved}
        variables = {"params": params[name], "batch_stats": stats[name]}
        module: Any = self.modules[name]
        y, moved = module.apply(variables, x, train=self.train, mutable=["batch_stats"])
        return y, {**stats, name: moved.get("batch_stats", stats[name])}

    def _normal(self, x, running):
        return batch_norm(x, running, arithmetic=self.spec.arithmetic, train=self.train)

    def _conv(self, name: str, normal, kernel: dict):
        """kernel: {"latent": (k, k, C, C)} or, float, {"kernel": ...}."""
        common: dict[str, Any] = {
            "scheme": self.spec.scheme,
            "geometry": self.spec.geometry(name),
            "arithmetic": self.spec.arithmetic,
        }
        if "latent" in kernel:
            return binary_conv(normal, kernel["latent"], **common)
        return float_weight_conv(normal, kernel["kernel"], binary_input=True, **common)


def plain_edges(x, weights, params: list[Params], stats: list[Statistics], *, edges: Edges):
    """(each edge's sum of weight * layer(x) over the layer types, (N, H', W', E, C); each edge's statistics after it).

    x: the state, (N, H, W, C). weights: (E, types). params, stats: of each edge.
    """
    mixed, new = [], []
    for edge, of_edge in enumerate(stats):
        total = jnp.zeros((), x.dtype)
        for column, name in enumerate(edges.spec.layer_types):
            if edges.spec.how(name) == NOTHING:
                continue
            y, of_edge = edges.layer(name, x, params[edge], of_edge)
            total = total + weights[edge, column] * y
        if total.ndim == 0:
            total = edges.layer(ZEROISE, x, {}, {})[0]
        mixed.append(total)
        new.append(of_edge)
    return jnp.stack(mixed, axis=3), new


def chosen_edges(x, weights, params: list[Params], stats: list[Statistics], *, edges: Edges):
    """`plain_edges` where a row of weights has one entry that is not 0, of which alone the layer runs (GDAS).

    The output is w_k * layer_k(x), with k the largest weight of an edge; the other weights get no gradient, and statistics of
    other layers do not move. In a loop over the edges, so that it is compiled once for all of them.
    """
    if any(set(own[name]) != set(params[0][name]) for own in params for name in own):
        raise UserError(
            "config.network.edges=chosen runs edges of the same kind, and config.network.float_head leaves some float;"
            " write config.network.float_head=False"
        )
    layers = [functools.partial(edges.layer, name) for name in edges.spec.layer_types]
    run = only(layers, plain=edges.spec.arithmetic.plain)

    def of_edge(_, given):
        row, own_params, own_stats = given
        choice = jnp.argmax(row)
        y, moved = run(choice, x, own_params, own_stats)
        return None, (row[choice] * y, moved)

    stacked = [jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees) for trees in (params, stats)]
    _, (mixed, new) = jax.lax.scan(of_edge, None, (weights, *stacked))
    split = [jax.tree.map(lambda leaf, edge=edge: leaf[edge], new) for edge in range(len(stats))]
    return jnp.moveaxis(mixed, 0, 3), split


def only(layers: Sequence[Callable], *, plain: bool) -> Callable:
    """`run(choice, x, params, stats)`: `layers[choice](x, params, stats)`, and no other, forwards and backwards.

    Left to itself JAX would store for the gradient what each of the layers needs, zeros for those that did not run. So the
    gradient is a condition of its own, which computes the chosen layer again. plain: without that, for derivatives of any
    order.
    """

    def switch(choice, x, params, stats):
        return jax.lax.switch(choice, layers, x, params, stats)

    if plain:
        return switch
    gradients = [functools.partial(_gradient, layer) for layer in layers]

    @jax.custom_vjp
    def run(choice, x, params, stats):
        return switch(choice, x, params, stats)

    def forward(choice, x, params, stats):
        return switch(choice, x, params, stats), (choice, x, params, stats)

    def backward(residuals, gradient):
        choice, *inputs = residuals
        to_x, to_params = jax.lax.switch(choice, gradients, *inputs, gradient[0])
        return None, to_x, to_params, None

    run.defvjp(forward, backward)
    return run


def _gradient(layer: Callable, x, params, stats, gradient):
    """The gradients of a layer's output at x and at its parameters."""
    _, vjp = jax.vjp(lambda x, params: layer(x, params, stats)[0], x, params)
    return vjp(gradient)
