"""The picture of one cell on a sheet."""

from collections.abc import Mapping
from typing import NamedTuple

from bnas_jax.core.genotype import Edge
from bnas_jax.report import palette
from bnas_jax.report.heights import BOX_HEIGHT
from bnas_jax.report.layout import FONT_SIZE, Box, Layout, Line, Point
from bnas_jax.report.sheet import Pen, Sheet

_TITLE_HEIGHT = 24.0
_TITLE_SIZE = 11.0


class Panel(NamedTuple):
    """The picture of one cell.

    edges: those that are there, by their positions among all that the layout has a place for. skip:
    whether the inter-cell skip connection is there.
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
    """Draws a panel from its upper left corner on. name: the beginning of its elements' ids."""
    left, top = corner
    place = (left, top + _TITLE_SIZE / 2)
    sheet.text(place, panel.title, size=_TITLE_SIZE, bold=True, align="left")
    top += _TITLE_HEIGHT
    # What is pale first: it lies below the rest.
    lines = [line for line in panel.layout.lines if line.edge is None or line.edge in panel.edges]
    lines.sort(key=lambda line: not _is_pale(panel, line.edge))
    for number, line in enumerate(lines):
        _draw_line(sheet, panel, line, (left, top), name=f"{name}-line{number}")
    for number, box in enumerate(panel.layout.boxes):
        if box.edge is None or box.edge in panel.edges:
            _draw_box(sheet, panel, box, (left, top), name=f"{name}-box{number}")
    if panel.skip:
        _draw_skip(sheet, panel.layout, (left, top), name=f"{name}-skip")


def _is_pale(panel: Panel, edge: int | None) -> bool:
    return edge is not None and palette.kind(panel.edges[edge].layer_type).pale


def _draw_line(sheet: Sheet, panel: Panel, line: Line, corner: Point, *, name: str) -> None:
    pen = Pen(dotted=line.source == 0)
    if _is_pale(panel, line.edge):
        pen = pen._replace(color=palette.PALE_LINE)
    points = [_moved(point, corner) for point in line.points]
    if line.arrow:
        sheet.arrow(points, pen, name=name)
    else:
        sheet.curve(points, pen, name=name)


def _draw_box(sheet: Sheet, panel: Panel, box: Box, corner: Point, *, name: str) -> None:
    center, size = _moved((box.x, box.y), corner), (box.width, BOX_HEIGHT)
    if box.edge is None:
        sheet.box(center, size, fill=palette.STATE, name=name)
        sheet.text(center, box.text, size=FONT_SIZE)
        return
    layer_type = panel.edges[box.edge].layer_type
    kind = palette.kind(layer_type)
    border = color = palette.BLACK
    if kind.pale:
        border, color = palette.PALE_LINE, palette.PALE_TEXT
    sheet.box(center, size, fill=kind.color, border=border, dashed=kind.pale, name=name)
    sheet.text(center, layer_type, size=FONT_SIZE, color=color)


def _draw_skip(sheet: Sheet, plan: Layout, corner: Point, *, name: str) -> None:
    """From the output of the cell before to that of this one, beneath everything (section 4.2)."""
    start, end = _moved(plan.previous.bottom, corner), _moved(plan.output.bottom, corner)
    sheet.bracket(start, end, Pen(palette.SKIP, width=1.5), y=corner[1] + plan.skip_y, name=name)


def _moved(point: Point, corner: Point) -> Point:
    return point[0] + corner[0], point[1] + corner[1]
