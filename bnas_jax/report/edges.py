"""The edges of a cell, as a picture needs them."""

from bnas_jax.core.genotype import Cell, Edge, edges

__all__ = ["Edge", "edges_of"]


def edges_of(cell: Cell) -> list[Edge]:
    """The edges of a cell, node by node."""
    return list(edges(cell))
