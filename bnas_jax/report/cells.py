"""Draws genotypes with a legend, as in the paper's Figures 6 to 8 and 11."""

import collections
from collections.abc import Mapping, Sequence

from bnas_jax.core import genotype as genotype_lib
from bnas_jax.core.genotype import INPUTS, ZEROISE, Cell, Edge, Genotype
from bnas_jax.report import legend, palette
from bnas_jax.report.layout import block, layout
from bnas_jax.report.panel import Panel, draw_panel
from bnas_jax.report.sheet import Sheet

# Lengths in points.
_MARGIN = 14.0
_COLUMN_GAP = 36.0
_ROW_GAP = 18.0

Named = tuple[str, Genotype]
# An edge by its ends: (node, source, its number among the edges between these two).
Place = tuple[int, int, int]


def genotypes(
    named: Sequence[Named], *, skip: Sequence[bool], zeroise: bool = True
) -> Sheet:
    """Genotypes side by side, each with its normal cell above its reduction cell.

    named: pairs (name, genotype).
    skip: for each genotype, whether its network has inter-cell skip connections.
    zeroise: False leaves out the edges whose layer type is Zeroise.
    """
    # A column for each genotype.
    top: list[Panel] = []
    bottom: list[Panel] = []
    for (name, genotype), has_skip in zip(named, skip, strict=True):
        normal, reduction = _titled({name: genotype}, zeroise=zeroise, skip=has_skip)
        top += normal
        bottom += reduction
    return _sheet([top, bottom])


def strip(frames: Sequence[Named], *, skip: bool = True, zeroise: bool = True) -> Sheet:
    """The genotypes of a search, one below the other, each with its cells side by side.

    The same edge has the same position in all of them.

    frames: pairs (title, genotype).
    skip, zeroise: see `genotypes`.
    """
    normal, reduction = _titled(dict(frames), zeroise=zeroise, skip=skip)
    rows = list(zip(normal, reduction, strict=True))
    return _sheet(rows)


def _titled(
    genotypes: Mapping[str, Genotype], **options: bool
) -> tuple[list[Panel], list[Panel]]:
    """(the panels of the normal cells, the panels of the reduction cells)."""
    normal: dict[str, Cell | str] = {}
    reduction: dict[str, Cell | str] = {}
    for name, genotype in genotypes.items():
        normal[f"{name}: normal cell"] = genotype.normal
        reduction[f"{name}: reduction cell"] = genotype.reduce
    return _panels(normal, **options), _panels(reduction, **options)


def _panels(
    cells: Mapping[str, Cell | str], *, zeroise: bool, skip: bool
) -> list[Panel]:
    """A panel for each cell. All have the same layout, with a place for every edge.

    cells: title -> cell.
    """
    # Find the edges of each cell. A hand-made cell is drawn as a single block; then all
    # cells of its search are hand-made.
    found: dict[str, dict[Place, Edge]] = {}
    for title, cell in cells.items():
        if isinstance(cell, str):
            return _block_panels(cell, titles=list(cells), skip=skip)
        drawn = list(genotype_lib.edges(cell))
        if not zeroise:
            drawn = [edge for edge in drawn if edge.layer_type != ZEROISE]
        found[title] = _by_place(drawn)

    # Each place is as wide as the longest name of a layer type there.
    at_place: dict[Place, list[Edge]] = {}
    for edges in found.values():
        for place, edge in edges.items():
            at_place.setdefault(place, []).append(edge)
    places = sorted(at_place)
    widest = []
    for place in places:
        longest = max(at_place[place], key=lambda edge: len(edge.layer_type))
        widest.append(longest)
    plan = layout(widest)

    # Make the panels. The key of an edge is its position in the layout.
    panels = []
    for title, edges in found.items():
        present = {places.index(place): edge for place, edge in edges.items()}
        panels.append(Panel(title=title, edges=present, layout=plan, skip=skip))
    return panels


def _block_panels(name: str, *, titles: Sequence[str], skip: bool) -> list[Panel]:
    """Panels of a hand-made cell, which has a name instead of edges."""
    edges = {0: Edge(layer_type=name, source=0, node=INPUTS)}
    plan = block(name)
    return [Panel(title=title, edges=edges, layout=plan, skip=skip) for title in titles]


def _by_place(edges: Sequence[Edge]) -> dict[Place, Edge]:
    """{place: edge}. Edges with the same ends have different places."""
    # The number of edges with the same ends so far.
    seen: collections.Counter[tuple[int, int]] = collections.Counter()
    found = {}
    for edge in edges:
        ends = (edge.node, edge.source)
        place = (edge.node, edge.source, seen[ends])
        found[place] = edge
        seen[ends] += 1
    return found


def _sheet(rows: Sequence[Sequence[Panel]]) -> Sheet:
    """Panels in rows and columns, and their legend below."""
    # Each column is as wide, and each row as high, as its largest panel.
    widths = []
    for column in zip(*rows, strict=True):
        widths.append(max(panel.width for panel in column))
    heights = []
    for row in rows:
        heights.append(max(panel.height for panel in row))
    panels_width = sum(widths) + _COLUMN_GAP * (len(widths) - 1)
    legend_top = _MARGIN + sum(heights) + _ROW_GAP * len(heights)

    # The entries of the legend may be wider than the panels.
    entries = _legend(rows)
    width = panels_width
    for entry in entries:
        width = max(width, legend.entry_width(entry))
    legend_rows = legend.rows_of(entries, width)
    legend_height = legend.ROW_HEIGHT * len(legend_rows)

    # Draw the panels from the upper left corner on, then the legend.
    sheet = Sheet(
        width=width + 2 * _MARGIN,
        height=legend_top + legend_height + _MARGIN,
    )
    top = _MARGIN
    for row_number, row in enumerate(rows):
        # From left to right.
        left = _MARGIN
        for column_number, panel in enumerate(row):
            name = f"cell{row_number}-{column_number}"
            draw_panel(sheet, panel, corner=(left, top), name=name)
            left += widths[column_number] + _COLUMN_GAP
        top += heights[row_number] + _ROW_GAP
    legend.draw_legend(sheet, entries, corner=(_MARGIN, legend_top), width=width)
    return sheet


def _legend(rows: Sequence[Sequence[Panel]]) -> list[legend.Entry]:
    """An entry for each colour and kind of line that the panels show."""
    # Find the edges and the skips of all panels.
    edges: list[Edge] = []
    skip = False
    for row in rows:
        for panel in row:
            edges += panel.edges.values()
            skip = skip or panel.skip

    # First the colours in the palette's order, then the lines.
    kinds = {palette.kind(edge.layer_type) for edge in edges}
    entries = []
    for kind in palette.KINDS:
        if kind in kinds:
            entries.append(legend.Entry(text=kind.name, symbol=kind))
    if any(edge.source == 0 for edge in edges):
        entries.append(legend.TWO_BEFORE)
    if skip:
        entries.append(legend.SKIP)
    return entries
