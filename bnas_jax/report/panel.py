"""Draws one cell on a sheet."""

from collections.abc import Mapping
from typing import NamedTuple

from bnas_jax.core.genotype import Edge
from bnas_jax.report import palette
from bnas_jax.report.heights import BOX_HEIGHT
from bnas_jax.report.layout import FONT_SIZE, Box, Layout, Line, Point
from bnas_jax.report.sheet import Pen, Sheet

# The space of the title above a cell, and its font size, in points.
_TITLE_HEIGHT = 24.0
_TITLE_SIZE = 11.0


class Panel(NamedTuple):
    """The picture of one cell.

    edges: position in the layout -> edge, for the edges that are drawn.
    skip: whether the inter-cell skip connection is drawn.
    """

    title: str
    edges: Mapping[int, Edge]
    layout: Layout
    skip: bool

    @property
    def width(self) -> float:
        """The width in points."""
        return self.layout.width

    @property
    def height(self) -> float:
        """The height in points, with the title."""
        return _TITLE_HEIGHT + self.layout.height


def draw_panel(sheet: Sheet, panel: Panel, corner: Point, *, name: str) -> None:
    """Draws a panel with its upper left corner at `corner`.

    name: the prefix of the ids of its elements.
    """
    # Draw the title. The cell is below it.
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

    # Draw pale lines first, so that the others cover them.
    lines = [line for line in panel.layout.lines if _is_there(panel, line.edge)]
    lines.sort(key=lambda line: not _is_pale(panel, line.edge))
    for number, line in enumerate(lines):
        _draw_line(sheet, panel, line, corner=corner, name=f"{name}-line{number}")

    # Draw the boxes, and the inter-cell skip.
    for number, box in enumerate(panel.layout.boxes):
        if _is_there(panel, box.edge):
            _draw_box(sheet, panel, box, corner=corner, name=f"{name}-box{number}")
    if panel.skip:
        _draw_skip(sheet, panel.layout, corner=corner, name=f"{name}-skip")


def _is_there(panel: Panel, edge: int | None) -> bool:
    """Whether a line or box is drawn, which is not part of an edge that is left out."""
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
    """Draws a line of the layout."""
    # Lines from c_(k-2) are dotted, as in the paper's figures.
    pen = Pen(dotted=line.source == 0)
    if _is_pale(panel, line.edge):
        pen = pen._replace(color=palette.PALE_LINE)
    points = [_moved(point, corner) for point in line.points]
    if line.arrow:
        sheet.arrow(points, pen, name=name)
    else:
        sheet.curve(points, pen, name=name)


def _draw_box(
    sheet: Sheet, panel: Panel, box: Box, *, corner: Point, name: str
) -> None:
    """Draws a box of the layout."""
    center = _moved((box.x, box.y), corner)
    size = (box.width, BOX_HEIGHT)
    # The box is a state, the concatenation or the output.
    if box.edge is None:
        sheet.box(center, size, fill=palette.STATE, name=name)
        sheet.text(center, box.text, size=FONT_SIZE)
        return

    # The box is a layer type. In a strip, it may differ from the one in the layout.
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
    """Draws the inter-cell skip below everything (section 4.2).

    It leads from the output of the previous cell to the output of this one.
    """
    start = _moved(plan.previous.bottom, corner)
    end = _moved(plan.output.bottom, corner)
    _, y = _moved((0.0, plan.skip_y), corner)
    pen = Pen(palette.SKIP, width=1.5)
    sheet.bracket(start, end, pen, y=y, name=name)


def _moved(point: Point, corner: Point) -> Point:
    """A point of a layout on the sheet, where the layout's corner is at `corner`."""
    x, y = point
    left, top = corner
    return x + left, y + top
