"""The cost of each layer type on each edge of a supernet, and SNAS's resource loss.

Costs are counted by `core.cost`.
"""

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
from bnas_jax.core.forms import form_of
from bnas_jax.core.genotype import EDGES, INPUTS
from bnas_jax.core.layers import NOTHING, layer_type
from bnas_jax.core.schemes import Scheme
from bnas_jax.core.stack import check_image_size

Shape = tuple[int, int, int]


class Costs(NamedTuple):
    """The costs of each layer type on each edge of each cell of a supernet.

    size, flops and access are nested tuples (cells, 14, types), which are hashable.

    kinds: `normal` or `reduce` for each cell.
    size: the weights, in words of 32 bits.
    flops: the FLOPs for one image.
    access: the number of values that are read and written for one image, including the
        weights.
    """

    kinds: tuple[str, ...]
    size: tuple
    flops: tuple
    access: tuple


def costs(supernet, image_shape: Shape) -> Costs:
    """The costs of a supernet's edges.

    image_shape: (H, W, C) of its images.

    Raises `UserError` for images that cannot be halved at each reduction.
    """
    # The size of the first cell's input, rounded up as the stem's convolutions do.
    stride = form_of(supernet.form).image_stride
    rows, columns = (-(-size // stride) for size in image_shape[:2])

    first = (1, rows, columns, supernet.channels)  # (N, H, W, C)
    check_image_size(first, supernet.num_cells, image_stride=stride)

    of_cells = []
    for place in supernet.places:
        # Edges from the cell's inputs read images of the input's size, edges between
        # nodes those of the output's size.
        outer = (rows, columns)
        inner = (rows // place.stride(0), columns // place.stride(0))

        # (size, FLOPs, access) of each layer type on each of the 14 edges.
        of_cell = []
        for source, _ in EDGES:
            size = outer if source < INPUTS else inner
            counts = functools.partial(
                _counts,
                features=place.channels,
                stride=place.stride(source),
                shape=(*size, place.channels),
                scheme=supernet.scheme,
            )
            of_cell.append([counts(name) for name in supernet.layer_types])
        of_cells.append(of_cell)
        rows, columns = inner

    array = np.array(of_cells, float)  # (cells, 14, types, 3)
    kinds = tuple(place.kind for place in supernet.places)
    return Costs(
        kinds=kinds,
        size=_nested(array[..., 0]),
        flops=_nested(array[..., 1]),
        access=_nested(array[..., 2]),
    )


def resource_loss(weights: Mapping[str, jax.Array], costs: Costs) -> jax.Array:
    """SNAS's resource loss, a scalar: the mean logarithm of the expected costs.

    It is the mean over the normal cells plus the mean over the reduction cells. The
    term of a cell is the sum over its edges of (log size + log FLOPs + log access) / 3.
    Each of these three costs is the sum over the layer types of weight * cost, but at
    least 1.

    weights: {"normal", "reduce"}, (14, layer types) each.

    >>> from bnas_jax.search.costs import costs, resource_loss
    >>> supernet = bnas.Supernet(num_cells=2, channels=4, num_classes=10)
    >>> counted = costs(supernet, image_shape=(8, 8, 1))
    >>> float(resource_loss(supernet.even_mixture(), counted)) > 0
    True
    """
    total = jnp.zeros(())
    # In a fixed order, as sums of floats depend on it.
    for kind in sorted(set(costs.kinds) & set(weights)):
        of_kind = np.array([kind == other for other in costs.kinds])  # (cells,)
        count = of_kind.sum()
        mixture = weights[kind]  # (14, types)
        for part in (costs.size, costs.flops, costs.access):
            # The cost of each edge, (cells of the kind, 14).
            cells = np.array(part)[of_kind]  # (cells of the kind, 14, types)
            values = jnp.asarray(cells, mixture.dtype)
            of_edges = jnp.sum(mixture * values, axis=-1)

            # An edge that is all Zeroise costs nothing, and has the logarithm 0.
            logarithms = jnp.log(jnp.where(of_edges < 1, 1, of_edges))
            total = total + jnp.sum(logarithms) / (3 * count)
    return total


class _Layer(nn.Module):
    """A model of a single layer, as it is on an edge of the supernet."""

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
    """(size, FLOPs, access) of a layer type, see `Costs`.

    shape: (H, W, C) of the layer's input.
    """
    kind = layer_type(name)
    # A layer type without weights.
    if not kind.learnable and kind.num_convs(stride) == 0:
        return 0.0, 0.0, _moved(kind, shape=shape, stride=stride)

    # Size and FLOPs are the sums over its modules.
    layer = _Layer(
        layer_type=name,
        features=features,
        stride=stride,
        scheme=scheme,
    )
    rows = cost(layer, image_shape=shape).rows
    size = sum(row.memory_bits for row in rows) / FLOAT_BITS
    flops = float(sum(row.flops for row in rows))

    # Access as in a chain, where each module reads the output of the previous one. In a
    # factorized reduction the second convolution reads the layer's input instead, so
    # that its access is underestimated.
    shapes = [shape, *(row.out_shape for row in rows)]
    values = [float(np.prod(one)) for one in shapes]
    read, written = sum(values[:-1]), sum(values[1:])
    access = read + written + size
    return size, flops, access


def _moved(kind, *, shape: Shape, stride: int) -> float:
    """The number of values that a layer without weights reads and writes.

    It is 0 for Zeroise.
    """
    if kind.batching == NOTHING:
        return 0.0
    return float(np.prod(shape)) * (1 + 1 / stride**2)


def _nested(array: np.ndarray) -> tuple:
    """(cells, 14, types) as tuples, which a field of a hashable searcher needs."""
    cells = []
    for of_cell in array.tolist():
        cells.append(tuple(tuple(of_edge) for of_edge in of_cell))
    return tuple(cells)
