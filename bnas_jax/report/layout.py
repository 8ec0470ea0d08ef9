"""Where everything of a cell's picture stands: a layered plan from left to right, as in Sugiyama, Tagawa and Toda (1981).

States (the cell's inputs and its nodes) and layer types take turns in columns: inputs, layer types, nodes, layer types,
nodes, ..., concatenation, output. A line that passes a column has a place of its own in it, a lane, and bends only between
columns, so that no line ever crosses a label.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bnas_jax.core.genotype import INPUTS, NODES
from bnas_jax.report.edges import Edge

# Lengths are points (1/72 inch), y grows downwards. The font is monospaced: its width is known without measuring it.
FONT_SIZE = 9.0
CHARACTER = 0.602 * FONT_SIZE
BOX_HEIGHT = 20.0
PADDING = 8.0
_LANE_HEIGHT = 4.0
_ROW_GAP = 7.0
_COLUMN_GAP = 34.0
# Between the lowest box and the inter-cell skip, which runs beneath all.
_SKIP_GAP = 16.0

INPUT_NAMES = ("c_(k-2)", "c_(k-1)")
OUTPUT_NAME = "c_(k)"
CONCATENATION = "concat"


class Box(NamedTuple):
    """A rectangle with a text. kind: input, node, layer, concat or output. x, y: its centre. edge: of a layer type, the
    position of its edge."""

    kind: str
    text: str
    x: float
    y: float
    width: float
    height: float = BOX_HEIGHT
    edge: int | None = None

    @property
    def left(self) -> float:
        return self.x - self.width / 2

    @property
    def right(self) -> float:
        return self.x + self.width / 2

    @property
    def bottom(self) -> float:
        return self.y + self.height / 2


class Line(NamedTuple):
    """A line: curved from its first point to the second, straight to the third, curved to the fourth, and so on.

    source: the state that it begins at. edge: the position of the edge that it is part of, None for one to the output.
    arrow: whether its end has a head.
    """

    points: tuple[tuple[float, float], ...]
    source: int
    edge: int | None
    arrow: bool


class Layout(NamedTuple):
    """A picture of (width, height), whose upper left corner is (0, 0). skip_y: where the inter-cell skip runs."""

    boxes: list[Box]
    lines: list[Line]
    width: float
    height: float
    skip_y: float

    @property
    def previous(self) -> Box:
        """The output of the cell before, c_(k-1)."""
        return next(box for box in self.boxes if box.text == INPUT_NAMES[1] and box.kind == "input")

    @property
    def output(self) -> Box:
        """The output of the cell, c_(k)."""
        return next(box for box in self.boxes if box.kind == "output")


# What stands in a column: ("state", number), ("layer", position of its edge), ("lane", state that passes),
# ("concat", 0) or ("output", 0).
Item = tuple[str, int]
Columns = list[list[Item]]
# (column, item there, item in the next column)
Link = tuple[int, Item, Item]


def text_width(text: str) -> float:
    """The width of a text in the font of the picture."""
    return CHARACTER * len(text)


def layout(edges: Sequence[Edge]) -> Layout:
    """The plan of a cell of four nodes. The same edges give the same plan."""
    columns, links = _columns(edges)
    columns = _with_few_crossings(columns, links)
    ys = _heights(columns, links)
    return _placed(edges, columns, ys)


def block(name: str) -> Layout:
    """The plan of a cell that is one block without nodes: inputs, the block, output."""
    row = BOX_HEIGHT + _ROW_GAP
    widths = [text_width(text) + 2 * PADDING for text in (INPUT_NAMES[0], name, OUTPUT_NAME)]
    lefts = [0.0, widths[0] + _COLUMN_GAP, sum(widths[:2]) + 2 * _COLUMN_GAP]
    columns = list(zip(lefts, widths, strict=True))
    middle = row / 2 + BOX_HEIGHT / 2

    def box(kind: str, text: str, column: int, y: float, edge: int | None = None) -> Box:
        left, width = columns[column]
        return Box(kind, text, left + width / 2, y, width, edge=edge)

    inputs = [box("input", text, 0, BOX_HEIGHT / 2 + number * row) for number, text in enumerate(INPUT_NAMES)]
    layer, output = box("layer", name, 1, middle, edge=0), box("output", OUTPUT_NAME, 2, middle)
    lines = [Line(((start.right, start.y), (layer.left, middle)), number, 0, arrow=True) for number, start in enumerate(inputs)]
    lines.append(Line(((layer.right, middle), (output.left, middle)), INPUTS, 0, arrow=True))
    bottom = row + BOX_HEIGHT + _SKIP_GAP
    return Layout([*inputs, layer, output], lines, width=output.right, height=bottom, skip_y=bottom)


def _columns(edges: Sequence[Edge]) -> tuple[Columns, list[Link]]:
    """What stands in each column, and what is joined to what in the next one."""
    states = {state: 2 * rank for state, rank in _ranks(edges).items()}
    concat = max(states.values()) + 1
    columns: Columns = [[] for _ in range(concat + 2)]
    for state, column in states.items():
        columns[column].append(("state", state))
    for position, edge in enumerate(edges):
        columns[states[edge.node] - 1].append(("layer", position))
    columns[concat].append(("concat", 0))
    columns[concat + 1].append(("output", 0))

    links: list[Link] = [(concat, ("concat", 0), ("output", 0))]
    for position, edge in enumerate(edges):
        links.append((states[edge.node] - 1, ("layer", position), ("state", edge.node)))
    for state, column in states.items():
        ends = [(states[e.node] - 1, ("layer", i)) for i, e in enumerate(edges) if e.source == state]
        if state >= INPUTS:
            ends.append((concat, ("concat", 0)))
        last = max((end for end, _ in ends), default=column)
        for passed in range(column + 1, last):
            columns[passed].append(("lane", state))
            links.append((passed - 1, _passing(state, column, passed - 1), ("lane", state)))
        links += [(end - 1, _passing(state, column, end - 1), item) for end, item in ends]
    return columns, links


def _ranks(edges: Sequence[Edge]) -> dict[int, int]:
    """How many layer types in a row a state has before it at most: 0 for the inputs, at least 1 for a node."""
    ranks = dict.fromkeys(range(INPUTS), 0)
    for node in range(INPUTS, INPUTS + NODES):
        ranks[node] = 1 + max((ranks[edge.source] for edge in edges if edge.node == node), default=0)
    return ranks


def _passing(state: int, begins: int, column: int) -> Item:
    """What a line from a state is in a column: the state itself where it begins, a lane behind that."""
    if column == begins:
        return ("state", state)
    return ("lane", state)


def _with_few_crossings(columns: Columns, links: list[Link], sweeps: int = 12) -> Columns:
    """Each column in the order of the mean place of what it is joined to, from both sides in turn; the best of all sweeps."""
    columns = [sorted(column, key=lambda item: (item[1], item[0])) for column in columns]
    best = columns
    for sweep in range(sweeps):
        forward = sweep % 2 == 0
        places = {c: _places(column) for c, column in enumerate(columns)}
        # The inputs stay where they are: c_(k-1) is the lower one, as the skip runs beneath all.
        numbers = list(range(1, len(columns)))
        if not forward:
            numbers.reverse()
        columns = list(columns)
        for number in numbers:
            neighbour = number - 1 if forward else number + 1
            if neighbour == len(columns):
                continue
            means = {}
            for item in columns[number]:
                joined = _joined(links, number, item, forward)
                own = places[number][item]
                means[item] = _mean([places[neighbour][other] for other in joined], own)
            columns[number] = sorted(columns[number], key=lambda item, means=means: means[item])
            places[number] = _places(columns[number])
        if _crossings(columns, links) < _crossings(best, links):
            best = columns
    return best


def _joined(links: list[Link], column: int, item: Item, forward: bool) -> list[Item]:
    """What an item is joined to in the column before it, or behind it."""
    if forward:
        return [start for number, start, end in links if number == column - 1 and end == item]
    return [end for number, start, end in links if number == column and start == item]


def _places(column: list[Item]) -> dict[Item, float]:
    """Places from 0 to 1, so that columns of different length compare."""
    return {item: (index + 0.5) / len(column) for index, item in enumerate(column)}


def _mean(values: list[float], otherwise: float) -> float:
    if not values:
        return otherwise
    return sum(values) / len(values)


def _crossings(columns: Columns, links: list[Link]) -> int:
    """How many pairs of lines cross between two columns."""
    places = [_places(column) for column in columns]
    spans = [(column, places[column][start], places[column + 1][end]) for column, start, end in links]
    return sum(
        column == other and (start - other_start) * (end - other_end) < 0
        for index, (column, start, end) in enumerate(spans)
        for other, other_start, other_end in spans[:index]
    )


def _heights(columns: Columns, links: list[Link], sweeps: int = 61) -> list[dict[Item, float]]:
    """y of each item: near what it is joined to, in the order of its column, nothing on top of another."""
    ys = [_spread(column, dict.fromkeys(column, 0.0)) for column in columns]
    for sweep in range(sweeps):
        numbers = list(range(len(columns)))
        if sweep % 2:
            numbers.reverse()
        for number in numbers:
            wanted = {}
            for item, y in ys[number].items():
                beside = []
                for other in _joined(links, number, item, True):
                    beside += [ys[number - 1][other]] * _weight(item, other)
                for other in _joined(links, number, item, False):
                    beside += [ys[number + 1][other]] * _weight(item, other)
                wanted[item] = _mean(beside, y)
            ys[number] = _spread(columns[number], wanted)
    return ys


def _weight(item: Item, other: Item) -> int:
    """How much two items want the same height: lines that go on are straight before others are."""
    if {item[0], other[0]} in ({"lane"}, {"concat", "output"}):
        return 8
    return 1


def _spread(column: list[Item], wanted: Mapping[Item, float]) -> dict[Item, float]:
    """The places nearest to the wanted ones, by least squares, that keep the order and the distances of a column.

    Without the distances this is isotonic regression, which pools neighbours that are in the wrong order.
    """
    offsets, offset = [], 0.0
    for index, item in enumerate(column):
        if index:
            offset += (_height(column[index - 1]) + _height(item)) / 2 + _ROW_GAP
        offsets.append(offset)
    pools: list[list[float]] = []
    for item, offset in zip(column, offsets, strict=True):
        pools.append([wanted[item] - offset])
        while len(pools) > 1 and _mean(pools[-2], 0) > _mean(pools[-1], 0):
            pools[-2:] = [pools[-2] + pools[-1]]
    shifts = [_mean(pool, 0) for pool in pools for _ in pool]
    return {item: shift + offset for item, shift, offset in zip(column, shifts, offsets, strict=True)}


def _height(item: Item) -> float:
    if item[0] == "lane":
        return _LANE_HEIGHT
    return BOX_HEIGHT


def _placed(edges: Sequence[Edge], columns: Columns, ys: list[dict[Item, float]]) -> Layout:
    """Boxes and lines, moved to where the upper left corner is (0, 0)."""
    top = min(y - _height(item) / 2 for column in ys for item, y in column.items())
    bottom = max(y + _height(item) / 2 for column in ys for item, y in column.items())
    boxes: dict[tuple[int, Item], Box] = {}
    sides: list[tuple[float, float]] = []
    right = -_COLUMN_GAP
    for number, column in enumerate(ys):
        left = right + _COLUMN_GAP
        width = max(_box_width(item, edges) for item in column)
        right = left + width
        sides.append((left, right))
        for item, y in column.items():
            if item[0] != "lane":
                boxes[number, item] = _box(item, edges, x=(left + right) / 2, y=y - top, width=width)

    lanes = [{item[1]: y - top for item, y in column.items() if item[0] == "lane"} for column in ys]
    lines = _lines(edges, boxes, sides, lanes)
    skip_y = bottom - top + _SKIP_GAP
    return Layout(list(boxes.values()), lines, width=right, height=skip_y, skip_y=skip_y)


def _box_width(item: Item, edges: Sequence[Edge]) -> float:
    if item[0] == "lane":
        return 0.0
    return text_width(_text(item, edges)) + 2 * PADDING


def _box(item: Item, edges: Sequence[Edge], *, x: float, y: float, width: float) -> Box:
    kind, number = item
    if kind == "state":
        kind = "input" if number < INPUTS else "node"
    edge = number if kind == "layer" else None
    return Box(kind, _text(item, edges), x, y, width, edge=edge)


def _text(item: Item, edges: Sequence[Edge]) -> str:
    kind, number = item
    if kind == "layer":
        return edges[number].layer_type
    if kind == "state":
        return [*INPUT_NAMES, *map(str, range(INPUTS, INPUTS + NODES))][number]
    return {"concat": CONCATENATION, "output": OUTPUT_NAME}[kind]


def _lines(edges: Sequence[Edge], boxes: Mapping, sides: list[tuple[float, float]], lanes: list[dict[int, float]]) -> list[Line]:
    """Two lines for each edge, to its layer type and from there to its node; one from each node to the concatenation."""
    at = {item: column for column, item in boxes}

    def line(state: int, end: Item, edge: int | None, arrow: bool) -> Line:
        start = boxes[at["state", state], ("state", state)]
        points = [(start.right, start.y)]
        for column in range(at["state", state] + 1, at[end]):
            points += [(side, lanes[column][state]) for side in sides[column]]
        box = boxes[at[end], end]
        return Line((*points, (box.left, box.y)), state, edge, arrow)

    def short(start: Item, end: Item, source: int, edge: int | None) -> Line:
        first, second = boxes[at[start], start], boxes[at[end], end]
        return Line(((first.right, first.y), (second.left, second.y)), source, edge, arrow=True)

    lines = []
    for position, edge in enumerate(edges):
        layer = ("layer", position)
        lines.append(line(edge.source, layer, position, arrow=False))
        lines.append(short(layer, ("state", edge.node), edge.source, position))
    for node in range(INPUTS, INPUTS + NODES):
        lines.append(line(node, ("concat", 0), None, arrow=True))
    lines.append(short(("concat", 0), ("output", 0), INPUTS, None))
    return lines
