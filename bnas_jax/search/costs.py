"""What each layer type costs on each edge of a supernet, by our counting, and SNAS's resource loss of it (methods.md C)."""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.cost import cost
from bnas_jax.core.cost.counts import FLOAT_BITS
from bnas_jax.core.genotype import EDGES, INPUTS
from bnas_jax.core.layers import NOTHING, layer_type
from bnas_jax.core.schemes import Scheme

Shape = tuple[int, int, int]


class Costs(NamedTuple):
    """kinds: which of the cells, normal or reduce, each is. size, flops, access: for each cell, edge and layer type: weights
    in words of 32 bits, FLOPs of an image, and values that are read and written for an image."""

    kinds: tuple[str, ...]
    size: tuple
    flops: tuple
    access: tuple


def costs(supernet, image_shape: Shape) -> Costs:
    """The costs of a supernet's edges. image_shape: (H, W, C)."""
    rows, columns = image_shape[:2]
    counted = []
    for place in supernet.places:
        inner = (rows // place.stride(0), columns // place.stride(0))
        of_cell = []
        for source, _ in EDGES:
            sides = (rows, columns) if source < INPUTS else inner
            edge = (place.channels, place.stride(source), (*sides, place.channels), supernet.scheme)
            of_cell.append([_counts(name, *edge) for name in supernet.layer_types])
        counted.append(of_cell)
        rows, columns = inner
    size, flops, access = (_nested(part) for part in np.moveaxis(np.array(counted, float), -1, 0))
    return Costs(tuple(place.kind for place in supernet.places), size, flops, access)


def resource_loss(weights: Mapping[str, jax.Array], costs: Costs) -> jax.Array:
    """The mean over normal cells plus the mean over reduction cells of the sum over edges of the logarithm of its cost.

    That is (log size + log FLOPs + log access) / 3, each of the sum over layer types of weight * cost, or of 1 where that is
    less. weights: {"normal", "reduce"}, (14, layer types) each.
    """
    total = jnp.zeros(())
    for kind in sorted(set(costs.kinds) & set(weights)):
        of_kind = np.array([kind == other for other in costs.kinds])
        for part in (costs.size, costs.flops, costs.access):
            values = jnp.asarray(np.array(part)[of_kind], weights[kind].dtype)
            of_edges = jnp.sum(weights[kind] * values, axis=-1)
            logarithms = jnp.log(jnp.where(of_edges < 1, 1, of_edges))
            total = total + jnp.sum(logarithms) / (3 * of_kind.sum())
    return total


class _Layer(nn.Module):
    """A layer type alone."""

    layer_type: str
    features: int
    stride: int
    scheme: Scheme
    arithmetic: Arithmetic = Arithmetic()

    @nn.compact
    def __call__(self, x, *, train: bool):
        layer = layer_type(self.layer_type).module(
            features=self.features,
            stride=self.stride,
            scheme=self.scheme,
            arithmetic=self.arithmetic,
            search=True,
            binary_weights=True,
            name="layer",
        )
        return layer(x, train=train)


@functools.cache
def _counts(
    name: str, features: int, stride: int, shape: Shape, scheme: Scheme
) -> tuple[float, float, float]:
    """(size, FLOPs, access) of a layer type for an image of the shape (H, W, C)."""
    kind = layer_type(name)
    if not kind.learnable and kind.num_convs(stride) == 0:
        return 0.0, 0.0, _moved(kind, shape, stride)
    rows = cost(_Layer(name, features, stride, scheme), image_shape=shape).rows
    size = sum(row.memory_bits for row in rows) / FLOAT_BITS
    # What each of its convolutions reads is what the one before has written.
    values = [float(np.prod(shape)), *(float(np.prod(row.out_shape)) for row in rows)]
    moved = sum(values[:-1]) + sum(values[1:])
    return size, float(sum(row.flops for row in rows)), moved + size


def _moved(kind, shape: Shape, stride: int) -> float:
    """What a layer type without weights reads and writes; nothing for Zeroise."""
    if kind.joins == NOTHING:
        return 0.0
    return float(np.prod(shape)) * (1 + 1 / stride**2)


def _nested(array: np.ndarray) -> tuple:
    return tuple(tuple(map(tuple, of_cell)) for of_cell in array.tolist())
