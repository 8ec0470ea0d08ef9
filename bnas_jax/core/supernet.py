"""The search's network: every edge a mixture of all layer types, weighted by the relaxed alphas (DARTS Eq. 2).

The work is shared. In the search BN has no affine part, so the normalised state, its signs and its two poolings are the same
for all edges that leave a state, and the convolutions of one type run side by side as one with more output channels. It is
the same function as one layer for each edge (a test holds it to that), with a quarter of the operations to compile.
"""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from bnas_jax.core import alphas as alphas_lib
from bnas_jax.core import binarize
from bnas_jax.core.cell import InterCellSkip, Preprocess
from bnas_jax.core.convolution import conv, weighted_binary_conv, weighted_edges
from bnas_jax.core.genotype import EDGES, INPUTS, LAYER_TYPES, NODES, ZEROISE, reductions
from bnas_jax.core.hold import remat
from bnas_jax.core.layers import batch_norm, initial_statistics, layer_type, uniform_fan_in
from bnas_jax.core.network import CifarStem, Classifier, check_shape
from bnas_jax.core.rules import Rules


class MixedEdges(nn.Module):
    """All edges that leave one state: `mixed_edges` with its parameters and running statistics.

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
    def __call__(self, x, weights, *, train: bool, for_alphas=None):
        """x: (N, H, W, C); weights: (E, types). Returns (N, H', W', E, C), each edge's weighted sum."""
        edges, dtype, channels = weights.shape[0], self.rules.dtype, x.shape[-1]
        convs, pools = _kinds(self.layer_types)
        kernels = {}
        for name, floats in zip(convs, self.float_edges, strict=True):
            size = layer_type(name).kernel
            for prefix, count in (("latent", edges - floats), ("kernel", floats)):
                if count:
                    shape = (size, size, channels, count * self.channels)
                    kernels[f"{prefix}_{name}"] = self.param(f"{prefix}_{name}", uniform_fan_in, shape, dtype)
        shapes = {"bn": (len(convs), edges, channels), "pool_bn": (edges, len(pools) * channels)}
        running = {
            name: self.variable("batch_stats", name, initial_statistics, shape[-1:] if self.shared_statistics else shape, dtype)
            for name, shape in shapes.items()
            if (convs if name == "bn" else pools)
        }
        statistics = {name: variable.value for name, variable in running.items()}
        total, statistics = mixed_edges(
            x, weights.astype(dtype), kernels, statistics, self.layer_types, self.stride, self.rules, train, for_alphas
        )
        if train and not self.is_initializing():
            for name, variable in running.items():
                variable.value = statistics[name]
        return total


# Jitted by itself, so that states of equal shapes are traced, differentiated and lowered once: half the time before XLA.
@functools.partial(jax.jit, static_argnums=(4, 5, 6, 7))
def mixed_edges(
    x,
    weights,
    kernels: dict,
    statistics: dict,
    layer_types: tuple[str, ...],
    stride: int,
    rules: Rules,
    train: bool,
    for_alphas=None,
):
    """(the weighted sum of each edge, (N, H', W', E, C); running statistics after it) of the edges that leave the state x.

    weights: (E, types). kernels: `latent_TYPE` and `kernel_TYPE`, (k, k, C, E' * C), those of the first E' edges and of the
    last, which keep float weights (`rules.float_head`). statistics: `bn` of the convolutions' input, `pool_bn` of the poolings.
    for_alphas: see `Supernet`.
    """
    convs, pools = _kinds(layer_types)
    outputs: dict[str, jax.Array] = {}
    new: dict[str, dict[str, jax.Array]] = {}
    if pools:
        functions = [layer_type(name).function for name in pools]
        y = jnp.concatenate([function(x, stride) for function in functions if function], axis=-1)
        y, new["pool_bn"] = batch_norm(y, statistics["pool_bn"], rules, train)
        # (N, H', W', 1 or E, C) each
        of_pools = jnp.split(y.reshape(*y.shape[:3], -1, y.shape[-1]), len(pools), axis=-1)
        weighted = remat(lambda y, weights: y * weights[:, None])
        outputs |= {n: weighted(y, weights[:, layer_types.index(n)]) for n, y in zip(pools, of_pools, strict=True)}
    if convs:
        normal, new["bn"] = batch_norm(x, statistics["bn"], rules, train)
        signs = binarize.binarize_activations(normal, rules.sign_of_zero)
        for position, name in enumerate(convs):
            # (N, H, W, types, E, C), where each edge has statistics of its own
            own_signs, own_normal = (v if v.ndim == 4 else v[..., position, :, :] for v in (signs, normal))
            own_weights = weights[:, layer_types.index(name)]
            outputs[name] = _convs(own_signs, own_normal, name, kernels, own_weights, stride, rules, for_alphas)
    # In the order of the types: sums of floats hang on it.
    return sum((outputs[name] for name in layer_types if name in outputs), jnp.zeros((), rules.dtype)), new


def _kinds(layer_types) -> tuple[list[str], list[str]]:
    """The types with weights, and the poolings."""
    convs = [name for name in layer_types if layer_type(name).learnable]
    return convs, [name for name in layer_types if name not in (*convs, ZEROISE)]


def _convs(signs, normal, name, kernels, weights, stride, rules, for_alphas):
    """The convolutions of one type of all edges side by side, with K, ReLU and weights: (N, H', W', E, C). weights: (E,)."""
    kind, edges = layer_type(name), len(weights)
    groups = 1 if signs.ndim == 4 else edges
    geometry = {"stride": stride, "padding": kind.dilation * (kind.kernel - 1) // 2, "dilation": kind.dilation}
    channels = signs.shape[-1]
    signs, scale = signs.reshape(*signs.shape[:3], -1), None
    if rules.activation_scale:
        scale = binarize.activation_scale(normal, kind.kernel, **geometry)
        scale = scale.reshape(*scale.shape[:3], -1, 1)
    outputs = []
    for prefix in ("latent", "kernel"):
        kernel = kernels.get(f"{prefix}_{name}")
        if kernel is None:
            continue
        count = kernel.shape[-1] // channels
        first = 0 if prefix == "latent" else edges - count
        part = slice(first, first + count)
        own_scale = scale if groups == 1 or scale is None else scale[..., part, :]
        inputs = signs if groups == 1 else signs[..., part.start * channels : part.stop * channels]
        options = {**geometry, "groups": 1 if groups == 1 else count}
        if prefix == "latent":
            outputs.append(weighted_binary_conv(inputs, kernel, own_scale, weights[part], rules, for_alphas, **options))
        else:
            y = conv(inputs, kernel, dtype=rules.conv_dtype, **options)
            outputs.append(weighted_edges(y, own_scale, weights[part], rules))
    return jnp.concatenate(outputs, axis=-2)


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
    def __call__(self, before, previous, weights, *, train: bool, for_alphas=None):
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
            )(states[source], weights[jnp.array(leaving)], train=train, for_alphas=for_alphas)
            for position, edge in enumerate(leaving):
                node = EDGES[edge][1] - INPUTS
                nodes[node] = nodes[node] + mixed[:, :, :, position]
        output = jnp.concatenate(nodes, axis=-1)
        if self.skip and not self.first:
            output = InterCellSkip(self.reduction, self.rules, name="skip")(output, previous, train=train)
        return output


class Supernet(nn.Module):
    """`apply(variables, alphas, images, train=False)`: NHWC images to logits, alphas {"normal", "reduce"} (14, types) each.

    for_alphas: None, or an array of one truth value, for a step that is told when it runs whether it is alpha's: where true,
    the gradients of the mixtures' latent weights, most of the work of all kernels' gradients, are left out, as zeros.
    """

    num_cells: int
    channels: int
    num_classes: int
    layer_types: tuple[str, ...] = LAYER_TYPES
    skip: bool = True
    rules: Rules = Rules()
    shared_statistics: bool = True

    @nn.compact
    def __call__(self, alphas, images, *, train: bool = False, for_alphas=None):
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
            own = weights["reduce" if reduction else "normal"]
            before, previous = previous, cell(before, previous, own, train=train, for_alphas=for_alphas)
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
