"""Genotypes: the cell that a search returns, as a validated, frozen value.

A cell has two inputs and four nodes. Input 0 is the output of the cell before the
previous one, input 1 the output of the previous one. The nodes are numbered 2 to 5.
Each node adds up its edges, two in most searches. An edge is a layer type applied to an
input or to an earlier node. The cell's output is the concatenation of its four nodes
(DARTS, arXiv 1806.09055, section 2.1; the BNAS paper, section 4.2).
"""

import dataclasses
import json
import reprlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bnas_jax.core.errors import UserError

NODES = 4
INPUTS = 2
# The edges of the search's cell, (source, node), in the order of the architecture
# parameters: node by node, input by input.
EDGES: tuple[tuple[int, int], ...] = tuple(
    (source, node) for node in range(INPUTS, INPUTS + NODES) for source in range(node)
)


def leaving(state: int) -> list[int]:
    """The positions in `EDGES` of the edges that leave a state.

    state: the number of an input (0, 1) or of a node (2 to 5).
    """
    return [edge for edge, (source, _) in enumerate(EDGES) if source == state]


def arriving(node: int) -> list[int]:
    """The positions in `EDGES` of the edges that enter a node.

    node: 2 to 5.
    """
    return [edge for edge, (_, target) in enumerate(EDGES) if target == node]


# The forms of the final network in the authors' code; `forms.FORMS` has more.
FORMS = ("cifar", "imagenet")

ZEROISE = "none"
# The search space of Table 3, in the order of the architecture parameters (that of the
# released code, so that its alphas can be read). It never grows; `layers.LAYERS` does.
TABLE_3 = (
    ZEROISE,
    "max_pool_3x3",
    "avg_pool_3x3",
    "bin_dil_conv_3x3",
    "bin_dil_conv_5x5",
    "bin_conv_3x3",
    "bin_conv_5x5",
)
# The search space of DARTS (section 3.1.1), in the order of its published alphas.
DARTS_TYPES = (
    ZEROISE,
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
# GDAS's hand-made reduction cell, which stands in a genotype by its name alone.
FIXED_REDUCTION = "gdas_fixed"

Pair = tuple[str, int]  # (layer type, input)
Node = tuple[Pair, ...]  # the edges that the node adds up
Cell = tuple[Node, ...]  # the four nodes
# A cell in any of the forms that `Genotype` takes.
CellLike = Sequence[Pair] | Sequence[Sequence[Pair]]


class Edge(NamedTuple):
    """An edge of a cell: a node adds up the layer type's output for the source.

    source: the number of an input or of an earlier node, 0 to 4.
    node: the number of the node, 2 to 5.
    """

    layer_type: str
    source: int
    node: int


@dataclasses.dataclass(frozen=True)
class Genotype:
    """A normal and a reduction cell.

    A cell is four tuples, one for each node: the (layer type, input) pairs that the
    node adds up. A cell may also be given as a flat list: eight pairs, two for each
    node in turn, or fourteen pairs, of which the nodes get 2, 3, 4 and 5. `reduce` may
    be `FIXED_REDUCTION`, the hand-made cell of GDAS.

    Raises `UserError` for a value that is not a cell.

    >>> pairs = [("bin_conv_3x3", 0), ("max_pool_3x3", 1)]
    >>> genotype = bnas.Genotype(normal=pairs * 4, reduce=pairs * 4)
    >>> genotype.normal[0]
    (('bin_conv_3x3', 0), ('max_pool_3x3', 1))
    """

    normal: Cell
    reduce: Cell | str

    if TYPE_CHECKING:
        # The forms in which a cell may be given; the fields hold the first of them.
        def __init__(self, normal: CellLike, reduce: CellLike | str) -> None: ...

    def __post_init__(self):
        # A frozen dataclass can only set its fields like this.
        object.__setattr__(self, "normal", _checked_cell(self.normal, "normal"))
        if self.reduce != FIXED_REDUCTION:
            object.__setattr__(self, "reduce", _checked_cell(self.reduce, "reduce"))

    def cell(self, reduction: bool) -> Cell | str:
        """The reduction cell or the normal one.

        The reduction cell may be the name `FIXED_REDUCTION`.
        """
        return self.reduce if reduction else self.normal

    def to_dict(self) -> dict:
        """The genotype as lists and names, for JSON.

        A cell is eight pairs if each of its nodes has two, else a list of pairs for
        each node.
        """
        return {"normal": _plain(self.normal), "reduce": _plain(self.reduce)}

    def to_json(self) -> str:
        """`to_dict` as a JSON text, which `genotypes.from_text` reads."""
        return json.dumps(self.to_dict(), indent=1) + "\n"


def edges(cell: Cell | str) -> tuple[Edge, ...]:
    """The edges of a cell, node by node; `FIXED_REDUCTION` has none."""
    if isinstance(cell, str):
        return ()
    found = []
    for number, node in enumerate(cell, INPUTS):
        for layer_type, source in node:
            found.append(Edge(layer_type=layer_type, source=source, node=number))
    return tuple(found)


def check_two_a_node(genotype: Genotype, what: str) -> None:
    """Raises `UserError` unless both cells have two pairs for each node.

    what: the plural noun that begins the message: what needs such cells.
    """
    for name in ("normal", "reduce"):
        cell = getattr(genotype, name)
        if isinstance(cell, str):
            raise UserError(
                f"{what} need a {name} cell of eight pairs, two a node; {cell!r} has "
                "none"
            )

        sizes = [len(node) for node in cell]  # pairs of each node
        if any(size != 2 for size in sizes):
            needed = f"{what} need a {name} cell of eight pairs, two a node"
            listed = ", ".join(map(str, sizes))
            raise UserError(
                f"{needed}; this one has {sum(sizes)}, {listed} a node: take another "
                "genotype"
            )


def _plain(cell: Cell | str) -> str | list:
    """A cell as lists and names, for JSON."""
    if isinstance(cell, str):
        return cell
    nodes: list[list] = [[list(pair) for pair in node] for node in cell]
    if any(len(node) != 2 for node in nodes):
        return nodes

    # Eight pairs, without their nodes.
    pairs: list[list] = []
    for node in nodes:
        pairs += node
    return pairs


def _checked_cell(cell, name: str) -> Cell:
    """The cell as tuples of pairs; raises `UserError` for a value that is not a cell.

    name: the cell's name, for messages.
    """
    nodes = []
    position = 0  # of a pair in the whole cell, for messages
    for number, node in enumerate(_nodes(cell, name), INPUTS):
        if not 1 <= len(node) <= number:
            # What a node that stays zero is written as.
            instead = "" if node else f'; a node of zeros has ["{ZEROISE}", 0]'
            raise UserError(
                f"genotype: node {number} of the {name} cell adds up 1 to {number} "
                f"[layer type, input] pairs; got {len(node)}{instead}"
            )
        # The pairs are numbered through the cell.
        checked = []
        for pair in node:
            where = f"{name} pair {position}"
            checked.append(_checked_pair(pair, name=where, node=number))
            position += 1
        nodes.append(tuple(checked))
    return tuple(nodes)


def _nodes(cell, name: str) -> list:
    """The pairs of each node, from any form in which a cell may be given.

    Raises `UserError` for a value in no such form.

    name: the cell's name, for messages.
    """
    # Cut off, since the value in a file may be very long or deep.
    got = reprlib.repr(cell)
    if isinstance(cell, (list, tuple)):
        # A list of pairs for each node.
        if len(cell) == NODES and all(map(_is_node, cell)):
            return list(cell)
        # Two pairs a node.
        if len(cell) == 2 * NODES:
            return [cell[first : first + 2] for first in range(0, len(cell), 2)]
        # All edges: a node has a pair for each earlier state.
        if len(cell) == len(EDGES):
            nodes, first = [], 0
            for number in range(INPUTS, INPUTS + NODES):
                nodes.append(cell[first : first + number])
                first += number
            return nodes
        got = str(len(cell))
    raise UserError(
        f"genotype: the {name} cell needs {2 * NODES} [layer type, input] pairs, two a "
        f"node, {len(EDGES)} for all edges, or a list of pairs for each of its {NODES} "
        f"nodes; got {got}"
    )


def _is_node(value) -> bool:
    """Whether a value is a list of pairs; a single pair begins with a name."""
    if not isinstance(value, (list, tuple)):
        return False
    return not (value and isinstance(value[0], str))


def _checked_pair(pair, *, name: str, node: int) -> Pair:
    """The pair as (str, int); raises `UserError` for a value that is not a pair.

    name: the pair's name, for messages.
    node: the node that adds the pair up.
    """
    if not isinstance(pair, (list, tuple)) or len(pair) != 2:
        raise UserError(
            f"genotype: {name} must be [layer type, input], got {reprlib.repr(pair)}"
        )

    layer, source = pair
    if not isinstance(layer, str):
        raise UserError(
            f"genotype: the layer type of {name} must be a name, got "
            f"{reprlib.repr(layer)}"
        )

    # Python counts True and False as integers, but they are not inputs.
    number = isinstance(source, (int, np.integer))
    if isinstance(source, bool) or not number or not 0 <= source < node:
        raise UserError(
            f"genotype: {name} feeds node {node}: its input must be 0 to {node - 1}, "
            f"got {reprlib.repr(source)}"
        )
    return str(layer), int(source)


def of_cells(cells: Mapping[str, Cell]) -> Genotype:
    """The genotype of the cells {"normal", "reduce"}.

    Without `reduce`, its reduction cell is `FIXED_REDUCTION`.
    """
    return Genotype(normal=cells["normal"], reduce=cells.get("reduce", FIXED_REDUCTION))
