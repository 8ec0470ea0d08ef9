"""The picture of one cell on a sheet."""

from collections.abc import Mapping
from typing import NamedTuple

from bnas_jax.core.genotype import Edge
from bnas_jax.report import palette
from bnas_jax.report.heights import BOX_HEIGHT
from bnas_jax.report.layout import FONT_SIZE, Box, Layout, Line, Point
from bnas_jax.report.sheet import Pen, Sheet

# In points: of the space above a cell, and of the letters in it.
_TITLE_HEIGHT = 24.0
_TITLE_SIZE = 11.0


class Panel(NamedTuple):
    """The picture of one cell.

    edges: the edges that are drawn, by their positions among those that the layout has
        a place for.
    skip: whether the inter-cell skip connection is drawn.
    """

    title: str
    edges: Mapping[int, Edge]
    layout: Layout
    skip: bool

    @property
    def width(self) -> float:
        """In points."""
        return self.layout.width

    @property
    def height(self) -> float:
        """In points, with the title."""
        return _TITLE_HEIGHT + self.layout.height


def draw_panel(sheet: Sheet, panel: Panel, corner: Point, *, name: str) -> None:
    """Draws a panel with its upper left corner at `corner`.

    name: the beginning of the ids of its elements.
    """
    # The title, and the cell below it.
    left, top = corner
    title_place = (left, top + _TITLE_SIZE / 2)
    sheet.text(
        title_place,
        panel.title,
        size=_TITLE_SIZE,
        bold=True,
        align="left",
    )
    corner = (left, top + _TITLE_HEIGHT)

    # Pale lines first: they lie below the others.
    lines = [line for line in panel.layout.lines if _is_there(panel, line.edge)]
    lines.sort(key=lambda line: not _is_pale(panel, line.edge))
    for number, line in enumerate(lines):
        _draw_line(sheet, panel, line, corner=corner, name=f"{name}-line{number}")

    # Then the boxes, and the inter-cell skip.
    for number, box in enumerate(panel.layout.boxes):
        if _is_there(panel, box.edge):
            _draw_box(sheet, panel, box, corner=corner, name=f"{name}-box{number}")
    if panel.skip:
        _draw_skip(sheet, panel.layout, corner=corner, name=f"{name}-skip")


def _is_there(panel: Panel, edge: int | None) -> bool:
    """Whether a line or box is drawn: always, unless it is part of an edge left out."""
    return edge is None or edge in panel.edges


def _is_pale(panel: Panel, edge: int | None) -> bool:
    """Whether a line is part of an edge whose layer type is drawn pale."""
    if edge is None:
        return False
    layer_type = panel.edges[edge].layer_type
    return palette.kind(layer_type).pale


def _draw_line(
    sheet: Sheet, panel: Panel, line: Line, *, corner: Point, name: str
) -> None:
    # Dotted from c_(k-2), as in the paper's figures.
    pen = Pen(dotted=line.source == 0)
    if _is_pale(panel, line.edge):
        pen = pen._replace(color=palette.PALE_LINE)
    # From the layout to the sheet.
    points = [_moved(point, corner) for point in line.points]
    if line.arrow:
        sheet.arrow(points, pen, name=name)
    else:
        sheet.curve(points, pen, name=name)


def _draw_box(
    sheet: Sheet, panel: Panel, box: Box, *, corner: Point, name: str
) -> None:
    center = _moved((box.x, box.y), corner)
    size = (box.width, BOX_HEIGHT)
    # A state, the concatenation or the output.
    if box.edge is None:
        sheet.box(center, size, fill=palette.STATE, name=name)
        sheet.text(center, box.text, size=FONT_SIZE)
        return

    # A layer type. In a strip it may be another one than the layout has in this place.
    layer_type = panel.edges[box.edge].layer_type
    kind = palette.kind(layer_type)
    border = color = palette.BLACK
    if kind.pale:
        border, color = palette.PALE_LINE, palette.PALE_TEXT
    sheet.box(
        center,
        size,
        fill=kind.color,
        border=border,
        dashed=kind.pale,
        name=name,
    )
    sheet.text(center, layer_type, size=FONT_SIZE, color=color)


def _draw_skip(sheet: Sheet, plan: Layout, *, corner: Point, name: str) -> None:
    """Draws the inter-cell skip beneath everything (section 4.2).

    It leads from the output of the cell before to that of this one.
    """
    start = _moved(plan.previous.bottom, corner)
    end = _moved(plan.output.bottom, corner)
    _, y = _moved((0.0, plan.skip_y), corner)
    pen = Pen(palette.SKIP, width=1.5)
    sheet.bracket(start, end, pen, y=y, name=name)


def _moved(point: Point, corner: Point) -> Point:
    """A point of a layout, on the sheet; the layout's upper left corner is (0, 0)."""
    x, y = point
    left, top = corner
    return x + left, y + top
