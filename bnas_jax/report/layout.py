"""The layout of a cell's picture: the positions of its boxes and lines.

The layout has columns from left to right, see `columns`. Lines bend only between
columns, and pass through a column in a lane, so that no line crosses a label.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bnas_jax.core.genotype import INPUTS, NODES, Edge
from bnas_jax.report.columns import CONCAT, OUTPUT, Item, columns
from bnas_jax.report.heights import BOX_HEIGHT, heights, item_height
from bnas_jax.report.ordering import with_few_crossings

# Lengths are in points (1/72 inch), and y grows downwards. The font is monospaced, so
# that the width of a text is known without measuring it.
FONT_SIZE = 9.0
_CHARACTER = 0.602 * FONT_SIZE
_PADDING = 8.0  # in a box, on both sides of its text
_COLUMN_GAP = 34.0
# Between the lowest box and the inter-cell skip, which is below everything.
_SKIP_GAP = 16.0

INPUT_NAMES = ("c_(k-2)", "c_(k-1)")
OUTPUT_NAME = "c_(k)"
CONCATENATION = "concat"

Point = tuple[float, float]


class Box(NamedTuple):
    """A rectangle with a text, whose middle is (x, y).

    edge: the position of the edge whose layer type the box shows; None for other boxes.
    """

    text: str
    x: float
    y: float
    width: float
    edge: int | None = None

    @property
    def left(self) -> Point:
        """The middle of its left side."""
        return self.x - self.width / 2, self.y

    @property
    def right(self) -> Point:
        """The middle of its right side."""
        return self.x + self.width / 2, self.y

    @property
    def bottom(self) -> Point:
        """The middle of its lower side."""
        return self.x, self.y + BOX_HEIGHT / 2


class Line(NamedTuple):
    """A line through points: curved to the second, straight to the third, and so on.

    source: the state where the line begins.
    edge: the position of the edge that the line is part of; None for a line to the
        concatenation or to the output.
    arrow: whether the line ends in an arrowhead.
    """

    points: tuple[Point, ...]
    source: int
    edge: int | None
    arrow: bool = True


class Layout(NamedTuple):
    """The layout of a picture of (width, height), whose upper left corner is (0, 0).

    previous, output: the boxes of c_(k-1) and c_(k), which are also in `boxes`.
    skip_y: y of the inter-cell skip, which leads from `previous` to `output`.
    """

    boxes: list[Box]
    lines: list[Line]
    previous: Box
    output: Box
    width: float
    height: float
    skip_y: float


def text_width(text: str) -> float:
    """The width of a text in `FONT_SIZE`."""
    return _CHARACTER * len(text)


def box_width(text: str) -> float:
    """The width of a box around a text."""
    return text_width(text) + 2 * _PADDING


def layout(edges: Sequence[Edge]) -> Layout:
    """The layout of a cell of four nodes with these edges.

    The same edges give the same layout.
    """
    # Find the items of each column, and y of each item.
    plan = with_few_crossings(columns(edges))
    ys, height = _from_top(heights(plan))

    # Find the left and the right side of each column.
    sides: list[Point] = []
    left = 0.0
    for column in plan.items:
        width = max((_width(item, edges) for item in column), default=0.0)
        sides.append((left, left + width))
        left += width + _COLUMN_GAP

    # Make a box for each item but lanes, as wide as its column.
    boxes: dict[Item, Box] = {}
    for (left, right), places in zip(sides, ys, strict=True):
        middle = (left + right) / 2
        width = right - left
        for item, y in places.items():
            if item[0] != "lane":
                boxes[item] = _box(item, edges, x=middle, y=y, width=width)

    # The inter-cell skip is at the bottom of the picture.
    skip_y = height + _SKIP_GAP
    return Layout(
        boxes=list(boxes.values()),
        lines=_lines(edges, boxes=boxes, sides=sides, ys=ys),
        previous=boxes["state", 1],
        output=boxes[OUTPUT],
        width=sides[-1][1],
        height=skip_y,
        skip_y=skip_y,
    )


def _from_top(ys: list[dict[Item, float]]) -> tuple[list[dict[Item, float]], float]:
    """(y of each item, measured from the top of the picture; the picture's height).

    The top of the picture is the upper side of the highest item.
    """
    # Find the top and the bottom of all items.
    uppers, lowers = [], []
    for column in ys:
        for item, y in column.items():
            uppers.append(y - item_height(item) / 2)
            lowers.append(y + item_height(item) / 2)
    top = min(uppers)
    bottom = max(lowers)

    # Move all items so that the top is y = 0.
    moved = []
    for column in ys:
        moved.append({item: y - top for item, y in column.items()})
    return moved, bottom - top


def block(name: str) -> Layout:
    """The layout of a cell without nodes: inputs, one block and output.

    name: the name of the block, which counts as edge 0.
    """
    # Three columns: inputs, block, output.
    widths = [box_width(text) for text in (INPUT_NAMES[0], name, OUTPUT_NAME)]
    middles = []  # x of the middle of each column
    for index, width in enumerate(widths):
        left = sum(widths[:index])
        middles.append(left + width / 2 + index * _COLUMN_GAP)

    # The inputs are one above the other; y of the block and the output is between.
    row = 1.5 * BOX_HEIGHT
    upper = BOX_HEIGHT / 2
    middle = BOX_HEIGHT / 2 + row / 2
    lower = BOX_HEIGHT / 2 + row

    # Make the boxes and lines. The inter-cell skip is below them.
    first = Box(INPUT_NAMES[0], x=middles[0], y=upper, width=widths[0])
    second = Box(INPUT_NAMES[1], x=middles[0], y=lower, width=widths[0])
    layer = Box(name, x=middles[1], y=middle, width=widths[1], edge=0)
    output = Box(OUTPUT_NAME, x=middles[2], y=middle, width=widths[2])
    lines = [
        Line((first.right, layer.left), source=0, edge=0),
        Line((second.right, layer.left), source=1, edge=0),
        Line((layer.right, output.left), source=INPUTS, edge=0),
    ]
    skip_y = lower + BOX_HEIGHT / 2 + _SKIP_GAP
    return Layout(
        boxes=[first, second, layer, output],
        lines=lines,
        previous=second,
        output=output,
        width=output.right[0],
        height=skip_y,
        skip_y=skip_y,
    )


def _width(item: Item, edges: Sequence[Edge]) -> float:
    """The width of an item's box; 0 for a lane, which has no box."""
    if item[0] == "lane":
        return 0.0
    return box_width(_text(item, edges))


def _box(item: Item, edges: Sequence[Edge], *, x: float, y: float, width: float) -> Box:
    """The box of an item, with its middle at (x, y)."""
    edge = None
    if item[0] == "layer":
        edge = item[1]
    return Box(_text(item, edges), x=x, y=y, width=width, edge=edge)


def _text(item: Item, edges: Sequence[Edge]) -> str:
    """The text in an item's box."""
    kind, number = item
    if kind == "layer":
        return edges[number].layer_type
    if item == CONCAT:
        return CONCATENATION
    if item == OUTPUT:
        return OUTPUT_NAME
    if number < INPUTS:
        return INPUT_NAMES[number]
    return str(number)


def _lines(
    edges: Sequence[Edge],
    *,
    boxes: Mapping[Item, Box],
    sides: Sequence[Point],
    ys: Sequence[Mapping[Item, float]],
) -> list[Line]:
    """The lines of a cell.

    Each edge has a line from its source to its layer type, and a line from there to its
    node. Each node has a line to the concatenation, which has a line to the output.

    sides: (left, right) of each column.
    ys: y of each item, column by column.
    """
    # Item -> its column. Lanes are in several columns, and are not looked up.
    column_of = {}
    for number, column in enumerate(ys):
        for item in column:
            column_of[item] = number

    def from_state(state: int, end: Item) -> tuple[Point, ...]:
        """The points of a line from a state to `end`, through the state's lanes."""
        points = [boxes["state", state].right]
        for number in range(column_of["state", state] + 1, column_of[end]):
            # The line is straight within the column.
            left, right = sides[number]
            y = ys[number]["lane", state]
            points += [(left, y), (right, y)]
        return (*points, boxes[end].left)

    # Both lines of an edge have the edge's source, so that a dotted line stays dotted
    # after the layer type.
    lines = []
    for position, edge in enumerate(edges):
        layer = boxes["layer", position]
        node = boxes["state", edge.node]
        to_layer = from_state(edge.source, ("layer", position))
        to_node = (layer.right, node.left)
        lines.append(Line(to_layer, source=edge.source, edge=position, arrow=False))
        lines.append(Line(to_node, source=edge.source, edge=position))

    # Lines from nodes to the concatenation, and from there to the output.
    for number in range(INPUTS, INPUTS + NODES):
        lines.append(Line(from_state(number, CONCAT), source=number, edge=None))
    to_output = (boxes[CONCAT].right, boxes[OUTPUT].left)
    lines.append(Line(to_output, source=INPUTS, edge=None))
    return lines
