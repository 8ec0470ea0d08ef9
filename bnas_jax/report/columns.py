"""What stands in each column of a cell's picture, and what is joined to what.

States (the cell's inputs and its nodes) and layer types take turns: inputs, layer types, nodes,
layer types, nodes, ..., concatenation, output. A line that passes a column has a place of its own
in it, a lane. All lines from one state share it.
"""

from collections.abc import Sequence
from typing import NamedTuple

from bnas_jax.core.genotype import INPUTS, NODES, Edge

# ("state", its number), ("layer", position of its edge), ("lane", the state that it comes from),
# ("concat", 0) or ("output", 0).
Item = tuple[str, int]
CONCAT: Item = ("concat", 0)
OUTPUT: Item = ("output", 0)


class Link(NamedTuple):
    """A piece of a line: from an item of a column to one of the next column."""

    column: int
    start: Item
    end: Item


class Columns(NamedTuple):
    """items: of each column, from top to bottom. links: between them."""

    items: list[list[Item]]
    links: list[Link]

    def before(self, column: int, item: Item) -> list[Item]:
        """What is joined to an item in the column before its own."""
        return [link.start for link in self.links if (link.column, link.end) == (column - 1, item)]

    def behind(self, column: int, item: Item) -> list[Item]:
        """What is joined to an item in the column behind its own."""
        return [link.end for link in self.links if (link.column, link.start) == (column, item)]


def columns(edges: Sequence[Edge]) -> Columns:
    """The columns of a cell with these edges."""
    column_of = {state: 2 * rank for state, rank in _ranks(edges).items()}
    last = max(column_of.values()) + 1
    items: list[list[Item]] = [[] for _ in range(last + 2)]
    for state, column in column_of.items():
        items[column].append(("state", state))
    for position, edge in enumerate(edges):
        items[column_of[edge.node] - 1].append(("layer", position))
    items[last].append(CONCAT)
    items[last + 1].append(OUTPUT)

    links = [Link(last, CONCAT, OUTPUT)]
    for position, edge in enumerate(edges):
        links.append(Link(column_of[edge.node] - 1, ("layer", position), ("state", edge.node)))
    for state, begin in column_of.items():
        ends = []
        for position, edge in enumerate(edges):
            if edge.source == state:
                ends.append((column_of[edge.node] - 1, ("layer", position)))
        if state >= INPUTS:
            ends.append((last, CONCAT))

        # A lane in each column that a line from the state passes, and from there to its ends.
        farthest = max((column for column, _ in ends), default=begin)
        for column in range(begin + 1, farthest):
            items[column].append(("lane", state))
            links.append(Link(column - 1, _passing(state, begin, column - 1), ("lane", state)))
        for column, item in ends:
            links.append(Link(column - 1, _passing(state, begin, column - 1), item))
    return Columns(items, links)


def _ranks(edges: Sequence[Edge]) -> dict[int, int]:
    """The most layer types in a row that lead to a state: 0 for the inputs, at least 1 for a
    node.
    """
    ranks = dict.fromkeys(range(INPUTS), 0)
    for node in range(INPUTS, INPUTS + NODES):
        before = [ranks[edge.source] for edge in edges if edge.node == node]
        ranks[node] = 1 + max(before, default=0)
    return ranks


def _passing(state: int, begin: int, column: int) -> Item:
    """A line from a state, in a column: the state itself where the line begins, a lane behind."""
    if column == begin:
        return ("state", state)
    return ("lane", state)
