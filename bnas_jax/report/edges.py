"""The edges of a cell, as a picture needs them."""

from typing import NamedTuple

from bnas_jax.core.genotype import INPUTS, ZEROISE, Cell


class Edge(NamedTuple):
    """A layer type, the state that it is applied to (0 and 1 are the cell's inputs), and the node that adds it up (from 2)."""

    layer_type: str
    source: int
    node: int


def edges_of(cell: Cell, *, zeroise: bool = True) -> list[Edge]:
    """The edges of a cell, node by node. zeroise: False leaves out those whose layer type is Zeroise."""
    edges = [Edge(name, source, INPUTS + position // 2) for position, (name, source) in enumerate(cell)]
    return [edge for edge in edges if zeroise or edge.layer_type != ZEROISE]
