"""The edges of a cell, as a picture needs them."""

from typing import NamedTuple

from bnas_jax.core.genotype import INPUTS, Cell


class Edge(NamedTuple):
    """A layer type, the state that it is applied to (0 and 1 are the cell's inputs), and the node
    that adds it up (from 2).
    """

    layer_type: str
    source: int
    node: int


def edges_of(cell: Cell) -> list[Edge]:
    """The edges of a cell, node by node."""
    pairs = enumerate(cell)
    return [Edge(name, source, INPUTS + position // 2) for position, (name, source) in pairs]
