"""The columns of a cell's picture, and the links between their items.

Columns of states (the cell's inputs and nodes) and columns of layer types alternate:
inputs, layer types, nodes, layer types, nodes, ..., concatenation, output. A line that
passes through a column has a place there, called a lane. All lines from one state share
their lane.
"""

from collections.abc import Sequence
from typing import NamedTuple

from bnas_jax.core.genotype import INPUTS, NODES, Edge

# ("state", number of the state), ("layer", position of its edge), ("lane", number of
# the state where its lines begin), ("concat", 0) or ("output", 0).
Item = tuple[str, int]
CONCAT: Item = ("concat", 0)
OUTPUT: Item = ("output", 0)


class Link(NamedTuple):
    """A piece of a line, from an item of a column to an item of the next column."""

    column: int
    start: Item
    end: Item


class Columns(NamedTuple):
    """The columns of a cell.

    items: the items of each column, from top to bottom.
    links: the links between the items.
    """

    items: list[list[Item]]
    links: list[Link]

    def before(self, column: int, item: Item) -> list[Item]:
        """The items of the previous column that are linked to an item of a column."""
        found = []
        for link in self.links:
            if link.column == column - 1 and link.end == item:
                found.append(link.start)
        return found

    def behind(self, column: int, item: Item) -> list[Item]:
        """The items of the next column that are linked to an item of a column."""
        found = []
        for link in self.links:
            if link.column == column and link.start == item:
                found.append(link.end)
        return found


def columns(edges: Sequence[Edge]) -> Columns:
    """The columns of a cell with these edges."""
    # States are in even columns. The layer types of the edges to a node are in the
    # column before it.
    column_of = {state: 2 * rank for state, rank in _ranks(edges).items()}

    # The concatenation and the output follow the last node.
    last = max(column_of.values()) + 1
    items: list[list[Item]] = [[] for _ in range(last + 2)]
    links = []
    for state, column in column_of.items():
        items[column].append(("state", state))

    # Links from the concatenation to the output, and from each layer type to its node.
    items[last].append(CONCAT)
    items[last + 1].append(OUTPUT)
    links.append(Link(last, start=CONCAT, end=OUTPUT))
    for position, edge in enumerate(edges):
        column = column_of[edge.node] - 1
        layer = ("layer", position)
        items[column].append(layer)
        links.append(Link(column, start=layer, end=("state", edge.node)))

    # Links from each state to its layer types, and from nodes to the concatenation.
    for state, begin in column_of.items():
        # (column, item) of each end of the state's lines.
        ends = []
        for position, edge in enumerate(edges):
            if edge.source == state:
                ends.append((column_of[edge.node] - 1, ("layer", position)))
        # Nodes are concatenated, inputs are not.
        if state >= INPUTS:
            ends.append((last, CONCAT))

        # The state has a lane in each column that one of its lines passes through.
        farthest = max((column for column, _ in ends), default=begin)
        for column in range(begin + 1, farthest):
            items[column].append(("lane", state))
            ends.append((column, ("lane", state)))

        # Link each end, including lanes, to the state or its lane in the previous
        # column.
        for column, item in ends:
            start = _passing(state, begin=begin, column=column - 1)
            links.append(Link(column - 1, start=start, end=item))
    return Columns(items=items, links=links)


def _ranks(edges: Sequence[Edge]) -> dict[int, int]:
    """State -> the length of the longest path of edges to it.

    It is 0 for the inputs, and at least 1 for a node.
    """
    # The edges of a node begin at states with smaller numbers, whose ranks are known.
    ranks = dict.fromkeys(range(INPUTS), 0)
    for node in range(INPUTS, INPUTS + NODES):
        before = [ranks[edge.source] for edge in edges if edge.node == node]
        ranks[node] = 1 + max(before, default=0)
    return ranks


def _passing(state: int, *, begin: int, column: int) -> Item:
    """The item of a state's lines in a column: the state itself, or its lane.

    begin: the column of the state.
    """
    if column == begin:
        return ("state", state)
    return ("lane", state)
