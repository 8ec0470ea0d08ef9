"""The derivation of a cell from the relaxed architecture parameters, with Zeroise kept
(Eq. 4) or left out.
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
    """One cell from the relaxed architecture parameters of its edges.

    weights: (14, len(layer_types)) softmax probabilities, rows in the order of `EDGES`.
    gamma: divides the probability of Zeroise (Eq. 4), so larger values pick it less
    often; must be > 0.
    keep_zeroise: False leaves Zeroise out, as published float searches do.
    Each node keeps its two edges with the largest probability over all candidate layer
    types (Zeroise among them where it is kept), strongest first, and on each the most
    probable type (docs/conventions.md; DARTS section 2.4).

    The released code divides all layer types of edge 0 by gamma instead. That edge
    leads into the first node, which keeps both of its edges, and its strongest type
    stays the same: at most the two pairs swap places, so no setting has it.

    `UserError` for another shape, and for a gamma that is not greater than 0.

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
    # Zeroise by Eq. (4), or never.
    if ZEROISE in layer_types:
        zeroise = layer_types.index(ZEROISE)
        if keep_zeroise:
            weights[:, zeroise] = weights[:, zeroise] / gamma
        else:
            weights[:, zeroise] = -np.inf

    nodes = all_edges(weights, layer_types)
    return tuple(node[:2] for node in nodes)


def all_edges(weights: np.ndarray, layer_types: tuple[str, ...]) -> Cell:
    """The cell of all edges, each with its strongest layer type, each node's strongest
    edge first (SNAS).

    weights: (14, len(layer_types)). Of equal weights the first is taken, as in DARTS's
    code.
    """
    strength = weights.max(axis=1)  # (14,)
    best = weights.argmax(axis=1)  # (14,)
    nodes = []
    for node in range(INPUTS, INPUTS + NODES):
        ranked = sorted(arriving(node), key=lambda edge: -strength[edge])
        pairs = []
        for edge in ranked:
            source, _ = EDGES[edge]
            pairs.append((layer_types[int(best[edge])], source))
        nodes.append(tuple(pairs))
    return tuple(nodes)
