"""The picture of genotypes, as in the paper's Figures 6 to 8 and 11: normal and reduction cells, and a legend."""

import collections
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bnas_jax.core.genotype import INPUTS, Cell, Genotype
from bnas_jax.report import legend, palette
from bnas_jax.report.edges import Edge, edges_of
from bnas_jax.report.layout import FONT_SIZE, Box, Layout, Line, block, layout
from bnas_jax.report.sheet import Sheet

MARGIN = 14.0
_TITLE_HEIGHT = 24.0
_TITLE_SIZE = 11.0
_GAP = 36.0


class Panel(NamedTuple):
    """The picture of one cell.

    edges: those that are there, by their positions among all that the layout has a place for. skip: whether the inter-cell
    skip connection is there.
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


def genotypes(named: Sequence[tuple[str, Genotype]], *, zeroise: bool = True, skip: Sequence[bool]) -> Sheet:
    """Genotypes side by side, each with its normal cell above its reduction cell.

    named: (name, genotype) each. zeroise: False leaves out the edges whose layer type is Zeroise. skip: for each genotype,
    whether its network has inter-cell skip connections.
    """
    columns = []
    for (name, genotype), skips in zip(named, skip, strict=True):
        normal = _panels([genotype.normal], [f"{name}: normal cell"], zeroise=zeroise, skip=skips)
        reduction = _panels([genotype.reduce], [f"{name}: reduction cell"], zeroise=zeroise, skip=skips)
        columns.append(normal + reduction)
    return draw([list(row) for row in zip(*columns, strict=True)])


def strip(frames: Sequence[tuple[str, Genotype]], *, zeroise: bool = True, skip: bool = True) -> Sheet:
    """The genotypes of a search one below the other, both cells of each side by side.

    frames: (when, genotype) each. What is the same edge has the same place in all of them.
    """
    when = [title for title, _ in frames]
    normal = _panels(
        [genotype.normal for _, genotype in frames],
        [f"{title}: normal cell" for title in when],
        zeroise=zeroise,
        skip=skip,
    )
    reduction = _panels(
        [genotype.reduce for _, genotype in frames],
        [f"{title}: reduction cell" for title in when],
        zeroise=zeroise,
        skip=skip,
    )
    return draw([list(row) for row in zip(normal, reduction, strict=True)])


def _panels(cells: Sequence[Cell | str], titles: Sequence[str], *, zeroise: bool, skip: bool) -> list[Panel]:
    """A panel for each cell, of one layout that has a place for the edges of all."""
    hand_made = [cell for cell in cells if isinstance(cell, str)]
    if hand_made:
        name = hand_made[0]
        return [Panel(title, {0: Edge(name, 0, INPUTS)}, block(name), skip) for title in titles]
    found = [_numbered(edges_of(cell, zeroise=zeroise)) for cell in cells if not isinstance(cell, str)]
    places = sorted({place for edges in found for place in edges})
    widest = [max((edges[place] for edges in found if place in edges), key=lambda e: len(e.layer_type)) for place in places]
    plan = layout(widest)
    panels = []
    for title, edges in zip(titles, found, strict=True):
        present = {places.index(place): edge for place, edge in edges.items()}
        panels.append(Panel(title, present, plan, skip))
    return panels


def _numbered(edges: Sequence[Edge]) -> dict[tuple[int, int, int], Edge]:
    """The edges by (node, source, how many of the same two came before)."""
    seen: collections.Counter[tuple[int, int]] = collections.Counter()
    numbered = {}
    for edge in edges:
        ends = (edge.node, edge.source)
        numbered[*ends, seen[ends]] = edge
        seen[ends] += 1
    return numbered


def draw(rows: Sequence[Sequence[Panel]]) -> Sheet:
    """Panels in rows and columns, and their legend below."""
    widths = [max(panel.width for panel in column) for column in zip(*rows, strict=True)]
    heights = [max(panel.height for panel in row) for row in rows]
    entries = _legend([panel for row in rows for panel in row])
    width = max(sum(widths) + _GAP * (len(widths) - 1), *map(legend.entry_width, entries))
    legend_top = MARGIN + sum(heights) + _GAP / 2 * len(heights)
    legend_height = legend.ROW_HEIGHT * len(legend.rows_of(entries, width))

    sheet = Sheet(width + 2 * MARGIN, legend_top + legend_height + MARGIN)
    top = MARGIN
    for row_number, row in enumerate(rows):
        left = MARGIN
        for column_number, panel in enumerate(row):
            _draw_panel(sheet, panel, left, top, name=f"cell{row_number}-{column_number}")
            left += widths[column_number] + _GAP
        top += heights[row_number] + _GAP / 2
    legend.draw_legend(sheet, entries, (MARGIN, legend_top), width)
    return sheet


def _legend(panels: Sequence[Panel]) -> list[legend.Entry]:
    """What is there to see in the panels."""
    edges = [edge for panel in panels for edge in panel.edges.values()]
    kinds = dict.fromkeys(palette.kind(edge.layer_type) for edge in edges)
    entries = [legend.Entry(kind.name, kind=kind) for kind in palette.KINDS if kind in kinds]
    if any(edge.source == 0 for edge in edges):
        entries.append(legend.TWO_BEFORE)
    if any(panel.skip for panel in panels):
        entries.append(legend.SKIP)
    return entries


def _draw_panel(sheet: Sheet, panel: Panel, left: float, top: float, *, name: str) -> None:
    sheet.text((left, top + _TITLE_SIZE / 2), panel.title, size=_TITLE_SIZE, bold=True, align="left")
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


def _draw_line(sheet: Sheet, panel: Panel, line: Line, corner: tuple[float, float], *, name: str) -> None:
    left, top = corner
    color = palette.LINE
    if _is_pale(panel, line.edge):
        color = palette.PALE_LINE
    points = [(left + x, top + y) for x, y in line.points]
    draw_line = sheet.curve
    if line.arrow:
        draw_line = sheet.arrow
    draw_line(points, color=color, dotted=line.source == 0, name=name)


def _draw_box(sheet: Sheet, panel: Panel, box: Box, corner: tuple[float, float], *, name: str) -> None:
    center = (corner[0] + box.x, corner[1] + box.y)
    text, fill, border, color = box.text, palette.STATE, palette.BLACK, palette.BLACK
    if box.edge is not None:
        text = panel.edges[box.edge].layer_type
        fill = palette.kind(text).color
    pale = _is_pale(panel, box.edge)
    if pale:
        border, color = palette.PALE_LINE, palette.PALE_TEXT
    sheet.box(center, (box.width, box.height), fill=fill, border=border, dashed=pale, name=name)
    sheet.text(center, text, size=FONT_SIZE, color=color)


def _draw_skip(sheet: Sheet, plan: Layout, corner: tuple[float, float], *, name: str) -> None:
    """From the output of the cell before to that of this one, beneath everything (section 4.2)."""
    left, top = corner
    start, end = plan.previous, plan.output
    first, last = (left + start.x, top + start.bottom), (left + end.x, top + end.bottom)
    sheet.bracket(first, last, y=top + plan.skip_y, color=palette.SKIP, width=1.5, name=name)
