"""The derivation of a cell from the relaxed architecture parameters.

Zeroise may be part of the cell (Eq. 4) or not.
"""

import numpy as np

from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import (
    EDGES,
    INPUTS,
    NODES,
    TABLE_3,
    ZEROISE,
    Cell,
    arriving,
)


def derive(
    weights, *, gamma: float = 1.0, keep_zeroise: bool = True, layer_types=TABLE_3
) -> Cell:
    """The cell of each node's two strongest edges.

    Each edge takes its most probable layer type, and that probability is the strength
    of the edge (DARTS section 2.4). Each node keeps its two strongest edges, the
    strongest first. The probability of Zeroise is divided by gamma (Eq. 4); with
    `keep_zeroise=False` no edge takes Zeroise.

    weights: (14, len(layer_types)) softmax probabilities, rows in the order of `EDGES`.
    gamma: must be > 0; the larger it is, the fewer edges are Zeroise.
    keep_zeroise: False is the rule of the published float searches.

    The released code divides all layer types of edge 0 by gamma instead
    (docs/conventions.md). That edge enters the first node, which keeps both of its
    edges, and the strongest type of the edge stays the same. The error can only swap
    the node's two pairs, so that no setting reproduces it.

    Raises `UserError` for another shape, and for a gamma that is not greater than 0.

    >>> from bnas_jax.core.derivation import derive
    >>> weights = jax.numpy.full((14, 2), 0.5).at[:, 1].add(0.1)
    >>> derive(weights, layer_types=("none", "bin_conv_3x3"))[0]
    (('bin_conv_3x3', 0), ('bin_conv_3x3', 1))
    """
    if not gamma > 0:
        raise UserError(
            f"gamma must be greater than 0, got {gamma}; 1 leaves Eq. 4 without effect"
        )
    weights = np.array(weights, copy=True)
    if weights.shape != (len(EDGES), len(layer_types)):
        raise UserError(
            f"alphas must have the shape {(len(EDGES), len(layer_types))}, got "
            f"{weights.shape}"
        )

    # Divide the probability of Zeroise by gamma (Eq. 4), or exclude it.
    if ZEROISE in layer_types:
        zeroise = layer_types.index(ZEROISE)
        if keep_zeroise:
            weights[:, zeroise] = weights[:, zeroise] / gamma
        else:
            weights[:, zeroise] = -np.inf

    # Keep two edges of each node.
    nodes = all_edges(weights, layer_types)
    return tuple(node[:2] for node in nodes)


def all_edges(weights: np.ndarray, layer_types: tuple[str, ...]) -> Cell:
    """The cell of all edges, each with its strongest layer type (SNAS).

    The edges of a node are sorted, the strongest first. Of layer types with equal
    weights the first is taken, as in DARTS's code.

    weights: (14, len(layer_types)).
    """
    strength = weights.max(axis=1)  # (14,)
    best = weights.argmax(axis=1)  # (14,)

    nodes = []
    for node in range(INPUTS, INPUTS + NODES):
        # A stable sort: edges of equal strength keep their order.
        ranked = sorted(arriving(node), key=lambda edge: -strength[edge])
        # The edges of the node as (layer type, source).
        pairs = []
        for edge in ranked:
            source, _ = EDGES[edge]
            pairs.append((layer_types[int(best[edge])], source))
        nodes.append(tuple(pairs))
    return tuple(nodes)
