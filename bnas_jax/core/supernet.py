"""The search's network: every edge a mixture of all layer types, weighted by the relaxed alphas (DARTS Eq. 2).

The work is shared. In the search BN has no affine part, so the normalised state, its signs and its two poolings are the same
for all edges that leave a state, and the convolutions of one type run side by side as one with more output channels. It is
the same function as one layer for each edge (a test holds it to that), with a quarter of the operations to compile.
"""

import chex
import flax.linen as nn
import jax.numpy as jnp

from bnas_jax.core import alphas as alphas_lib
from bnas_jax.core import binarize
from bnas_jax.core.cell import InterCellSkip, Preprocess
from bnas_jax.core.genotype import EDGES, INPUTS, LAYER_TYPES, NODES, ZEROISE, reductions
from bnas_jax.core.layers import BatchNorm, binary_conv, conv, layer_type, uniform_fan_in
from bnas_jax.core.network import CifarStem, Classifier, check_shape
from bnas_jax.core.rules import Rules


class MixedEdges(nn.Module):
    """All edges that leave one state.

    float_edges: for each layer type with weights, how many of the last edges keep float weights (`rules.float_head`).
    shared_statistics: one running mean and variance for each state, as all its edges see the same batches; False keeps one
    for each edge and type, as released checkpoints hold.
    """

    channels: int
    stride: int
    layer_types: tuple[str, ...]
    rules: Rules
    float_edges: tuple[int, ...]
    shared_statistics: bool = True

    @nn.compact
    def __call__(self, x, weights, *, train: bool):
        """x: (N, H, W, C); weights: (E, types). Returns (N, H', W', E, C), each edge's weighted sum."""
        weights = dict(zip(self.layer_types, weights.astype(self.rules.dtype).T, strict=True))
        convs = [name for name in self.layer_types if layer_type(name).learnable]
        pools = [name for name in self.layer_types if not layer_type(name).learnable and name != ZEROISE]
        outputs = self._convs(x, convs, len(weights[convs[0]]), train) if convs else {}
        if pools:
            outputs |= self._pools(x, pools, len(weights[pools[0]]), train)
        total = jnp.zeros((), self.rules.dtype)
        for name, y in outputs.items():
            total = total + y * weights[name][:, None]
        return total

    def _pools(self, x, names, edges, train):
        """The poolings, normalised as one, (N, H', W', 1 or E, C) each."""
        functions = [layer_type(name).function for name in names]
        y = jnp.concatenate([function(x, self.stride) for function in functions if function], axis=-1)
        copies = () if self.shared_statistics else (edges,)
        y = BatchNorm(self.rules, affine=False, copies=copies, name="pool_bn")(y, train=train)
        y = y.reshape(*y.shape[:3], -1, y.shape[-1])
        return dict(zip(names, jnp.split(y, len(names), axis=-1), strict=True))

    def _convs(self, x, names, edges, train):
        """The convolutions with what stands around them, (N, H', W', E, C) each."""
        copies = () if self.shared_statistics else (len(names), edges)
        normal = BatchNorm(self.rules, affine=False, copies=copies, name="bn")(x, train=train)
        signs = binarize.binarize_activations(normal, self.rules.sign_of_zero)
        outputs = {}
        for position, name in enumerate(names):
            # (N, H, W, types, E, C), where each edge has statistics of its own
            own = [v if v.ndim == 4 else v[..., position, :, :] for v in (signs, normal)]
            y = self._edges(own[0].reshape(*x.shape[:3], -1), position, name, edges, groups=1 if signs.ndim == 4 else edges)
            y = y.reshape(*y.shape[:3], edges, self.channels)
            if self.rules.activation_scale:
                scale = binarize.activation_scale(own[1], layer_type(name).kernel, **self._geometry(name))
                y = y * scale.reshape(*y.shape[:3], -1, 1)
            outputs[name] = nn.relu(y) if self.rules.relu else y
        return outputs

    def _geometry(self, name):
        kind = layer_type(name)
        return {"stride": self.stride, "padding": kind.dilation * (kind.kernel - 1) // 2, "dilation": kind.dilation}

    def _edges(self, signs, position, name, edges, groups):
        """The convolutions of all edges side by side, (N, H', W', E * C); those that keep float weights come last."""
        size, float_edges, geometry = layer_type(name).kernel, self.float_edges[position], self._geometry(name)
        inputs = signs.shape[-1] // groups
        weights = lambda prefix, count: self.param(
            f"{prefix}_{name}", uniform_fan_in, (size, size, inputs, count * self.channels), self.rules.dtype
        )
        binary = edges - float_edges
        part = lambda first, last: signs if groups == 1 else signs[..., first * inputs : last * inputs]
        count = lambda edges: 1 if groups == 1 else edges
        outputs = []
        if binary:
            latent = weights("latent", binary)
            outputs.append(binary_conv(part(0, binary), latent, self.rules, groups=count(binary), **geometry))
        if float_edges:
            kernel = weights("kernel", float_edges)
            options = {**geometry, "groups": count(float_edges), "dtype": self.rules.conv_dtype}
            outputs.append(conv(part(binary, edges), kernel, **options))
        return jnp.concatenate(outputs, axis=-1)


class MixedCell(nn.Module):
    """A cell of the search's network."""

    channels: int
    reduction: bool
    previous_reduction: bool
    first: bool
    skip: bool
    layer_types: tuple[str, ...]
    rules: Rules
    float_edges: tuple[tuple[int, ...], ...]
    shared_statistics: bool = True

    @nn.compact
    def __call__(self, before, previous, weights, *, train: bool):
        """before, previous: outputs of the two cells before; weights: (14, types) probabilities."""
        binary = self.rules.binary_search_preprocess
        preprocess = Preprocess(
            self.channels,
            self.previous_reduction,
            self.rules,
            (binary, binary),
            affine=(False, False),
            sign=binary,
            name="preprocess",
        )
        states = list(preprocess(before, previous, train=train))
        nodes: list = [0] * NODES
        for source in range(INPUTS + NODES - 1):
            if source >= INPUTS:
                states.append(nodes[source - INPUTS])
            leaving = [e for e, (start, _) in enumerate(EDGES) if start == source]
            mixed = MixedEdges(
                self.channels,
                2 if self.reduction and source < INPUTS else 1,
                self.layer_types,
                self.rules,
                self.float_edges[source],
                self.shared_statistics,
                name=f"state{source}",
            )(states[source], weights[jnp.array(leaving)], train=train)
            for position, edge in enumerate(leaving):
                node = EDGES[edge][1] - INPUTS
                nodes[node] = nodes[node] + mixed[:, :, :, position]
        output = jnp.concatenate(nodes, axis=-1)
        if self.skip and not self.first:
            output = InterCellSkip(self.reduction, self.rules, name="skip")(output, previous, train=train)
        return output


class Supernet(nn.Module):
    """`apply(variables, alphas, images, train=False)`: NHWC images to logits, alphas {"normal", "reduce"} (14, types) each."""

    num_cells: int
    channels: int
    num_classes: int
    layer_types: tuple[str, ...] = LAYER_TYPES
    skip: bool = True
    rules: Rules = Rules()
    shared_statistics: bool = True

    @nn.compact
    def __call__(self, alphas, images, *, train: bool = False):
        chex.assert_shape(list(alphas.values()), (len(EDGES), len(self.layer_types)))
        weights = alphas_lib.relax(alphas)
        before, previous = CifarStem(self.channels, self.rules, name="stem")(images.astype(self.rules.dtype), train=train)
        check_shape(previous, self.num_cells)
        channels, previous_reduction = self.channels, False
        float_edges = supernet_float_edges(self)
        for index in range(self.num_cells):
            reduction = index in reductions(self.num_cells)
            channels *= 2 if reduction else 1
            cell = MixedCell(
                channels,
                reduction,
                previous_reduction,
                index == 0,
                self.skip,
                self.layer_types,
                self.rules,
                float_edges[index],
                self.shared_statistics,
                name=f"cell{index}",
            )
            before, previous = previous, cell(before, previous, weights["reduce" if reduction else "normal"], train=train)
            previous_reduction = reduction
        return Classifier(self.num_classes, self.rules, name="classifier")(previous)


def supernet_float_edges(net: Supernet) -> list[tuple[tuple[int, ...], ...]]:
    """For each cell, state and layer type with weights: how many of the edges that leave the state stay float.

    The released index error again (`network.float_head`): here the float convolutions that shift the count are those of the
    skips and of the preprocessing, and those left over are the last ones in the order of edges, then types.
    """
    types = [t for t in net.layer_types if layer_type(t).learnable]
    left = 0
    if net.rules.float_head:
        skips = sum(r > 0 for r in reductions(net.num_cells)) if net.skip else 0
        left = skips + (0 if net.rules.binary_search_preprocess else 2 * net.num_cells)
    result = []
    for _ in range(net.num_cells):  # from the last cell to the first
        order = [(start, t) for start, _ in EDGES for t in range(len(types))]
        dropped = order[max(len(order) - left, 0) :]
        left = max(left - len(order), 0)
        result.append(tuple(tuple(dropped.count((s, t)) for t in range(len(types))) for s in range(INPUTS + NODES - 1)))
    return result[::-1]
