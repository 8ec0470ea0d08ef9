"""The picture of genotypes, as in the paper's Figures 6 to 8 and 11, with a legend."""

import collections
from collections.abc import Mapping, Sequence

from bnas_jax.core import genotype as genotype_lib
from bnas_jax.core.genotype import INPUTS, ZEROISE, Cell, Edge, Genotype
from bnas_jax.report import legend, palette
from bnas_jax.report.layout import block, layout
from bnas_jax.report.panel import Panel, draw_panel
from bnas_jax.report.sheet import Sheet

_MARGIN = 14.0
_COLUMN_GAP = 36.0
_ROW_GAP = 18.0

Named = tuple[str, Genotype]
# (node, source, how many edges between these two come before)
Place = tuple[int, int, int]


def genotypes(named: Sequence[Named], *, skip: Sequence[bool], zeroise: bool = True) -> Sheet:
    """Genotypes side by side, each with its normal cell above its reduction cell.

    named: (name, genotype) each. skip: for each genotype, whether its network has inter-cell skip
    connections. zeroise: False leaves out the edges whose layer type is Zeroise.
    """
    columns = []
    for (name, genotype), has_skip in zip(named, skip, strict=True):
        cells = _titled({name: genotype}, zeroise=zeroise, skip=has_skip)
        columns.append([panel for panels in cells for panel in panels])
    return _sheet([list(row) for row in zip(*columns, strict=True)])


def strip(frames: Sequence[Named], *, skip: bool = True, zeroise: bool = True) -> Sheet:
    """The genotypes of a search one below the other, both cells of each side by side.

    frames: (when, genotype) each. The same edge has the same place in all of them. skip, zeroise:
    see `genotypes`.
    """
    normal, reduction = _titled(dict(frames), zeroise=zeroise, skip=skip)
    return _sheet([list(row) for row in zip(normal, reduction, strict=True)])


def _titled(genotypes: Mapping[str, Genotype], **options: bool) -> tuple[list[Panel], list[Panel]]:
    """Panels of the normal cells and of the reduction cells."""
    normal = {f"{name}: normal cell": genotype.normal for name, genotype in genotypes.items()}
    reduction = {f"{name}: reduction cell": genotype.reduce for name, genotype in genotypes.items()}
    return _panels(normal, **options), _panels(reduction, **options)


def _panels(cells: Mapping[str, Cell | str], *, zeroise: bool, skip: bool) -> list[Panel]:
    """A panel for each cell, by its title, of one layout that has a place for the edges of all."""
    found: dict[str, dict[Place, Edge]] = {}
    for title, cell in cells.items():
        if isinstance(cell, str):
            block_edges, block_plan = {0: Edge(cell, 0, INPUTS)}, block(cell)
            return [Panel(title, block_edges, block_plan, skip) for title in cells]
        drawn = genotype_lib.edges(cell)
        found[title] = _by_place([e for e in drawn if zeroise or e.layer_type != ZEROISE])

    # Each place is as wide as the longest name that is ever there.
    places = sorted({place for edges in found.values() for place in edges})
    widest = []
    for place in places:
        here = [edges[place] for edges in found.values() if place in edges]
        widest.append(max(here, key=lambda edge: len(edge.layer_type)))
    plan = layout(widest)
    panels = []
    for title, edges in found.items():
        present = {places.index(place): edge for place, edge in edges.items()}
        panels.append(Panel(title, present, plan, skip))
    return panels


def _by_place(edges: Sequence[Edge]) -> dict[Place, Edge]:
    """The edges by their places, which are different for edges with the same ends."""
    seen: collections.Counter[tuple[int, int]] = collections.Counter()
    found = {}
    for edge in edges:
        ends = (edge.node, edge.source)
        found[*ends, seen[ends]] = edge
        seen[ends] += 1
    return found


def _sheet(rows: Sequence[Sequence[Panel]]) -> Sheet:
    """Panels in rows and columns, and their legend below."""
    widths = [max(panel.width for panel in column) for column in zip(*rows, strict=True)]
    heights = [max(panel.height for panel in row) for row in rows]
    entries = _legend([panel for row in rows for panel in row])
    panels_width = sum(widths) + _COLUMN_GAP * (len(widths) - 1)
    width = max([panels_width, *map(legend.entry_width, entries)])
    legend_top = _MARGIN + sum(heights) + _ROW_GAP * len(heights)
    legend_height = legend.ROW_HEIGHT * len(legend.rows_of(entries, width))

    sheet = Sheet(width + 2 * _MARGIN, legend_top + legend_height + _MARGIN)
    top = _MARGIN
    for row_number, row in enumerate(rows):
        left = _MARGIN
        for column_number, panel in enumerate(row):
            name = f"cell{row_number}-{column_number}"
            draw_panel(sheet, panel, (left, top), name=name)
            left += widths[column_number] + _COLUMN_GAP
        top += heights[row_number] + _ROW_GAP
    legend.draw_legend(sheet, entries, (_MARGIN, legend_top), width)
    return sheet


def _legend(panels: Sequence[Panel]) -> list[legend.Entry]:
    """What is there to see in the panels."""
    edges = [edge for panel in panels for edge in panel.edges.values()]
    kinds = dict.fromkeys(palette.kind(edge.layer_type) for edge in edges)
    entries = [legend.Entry(kind.name, kind) for kind in palette.KINDS if kind in kinds]
    if any(edge.source == 0 for edge in edges):
        entries.append(legend.TWO_BEFORE)
    if any(panel.skip for panel in panels):
        entries.append(legend.SKIP)
    return entries
