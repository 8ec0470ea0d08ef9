"""Draws the cell template (Figure 5).

It shows how cells follow each other, without and with inter-cell skips.
"""

from bnas_jax.report import legend, palette
from bnas_jax.report.chain import chain_width, draw_chain
from bnas_jax.report.heights import BOX_HEIGHT
from bnas_jax.report.sheet import Pen, Sheet

_CHAIN = ("c_(k-2)", "c_(k-1)", "ConvCell", "c_(k)", "ConvCell", "c_(k+1)")
# The positions of the cells in the chain; all others are outputs.
_CELLS = (2, 4)
# The position of a cell -> that of its first input, the output of two cells before.
_BEFORE = {2: 0, 4: 1}
_MARGIN = 14.0
_TITLE_SIZE = 11.0
# From the top of a panel to the middle of its boxes, and from there to the next panel.
_ABOVE, _BELOW = 72.0, 55.0
_ENTRIES = (
    legend.Entry("from two cells before", Pen(dotted=True, width=1.5)),
    legend.SKIP,
)


def template() -> Sheet:
    """The templates of DARTS and of BNAS, one above the other."""
    # The two panels and the legend are one below the other.
    width = chain_width(_CHAIN)
    second = _MARGIN + _ABOVE + _BELOW
    legend_top = _MARGIN + 2 * (_ABOVE + _BELOW)
    sheet = Sheet(
        width=width + 2 * _MARGIN,
        height=legend_top + legend.ROW_HEIGHT + _MARGIN,
    )
    darts, bnas = "(a) DARTS cell template", "(b) BNAS cell template"
    _draw(sheet, top=_MARGIN, title=darts, skip=False)
    _draw(sheet, top=second, title=bnas, skip=True)
    legend.draw_legend(sheet, _ENTRIES, corner=(_MARGIN, legend_top), width=width)
    return sheet


def _draw(sheet: Sheet, *, top: float, title: str, skip: bool) -> None:
    """Draws one template.

    top: y of the upper side of the panel.
    skip: whether there are inter-cell skip connections.
    """
    # Draw the title, and find y of the middle and of both sides of the boxes.
    title_place = (_MARGIN, top + _TITLE_SIZE / 2)
    sheet.text(title_place, title, size=_TITLE_SIZE, bold=True, align="left")
    y = top + _ABOVE
    upper = y - BOX_HEIGHT / 2
    lower = y + BOX_HEIGHT / 2
    # The prefix of ids: "darts" or "bnas".
    name = title.split()[1].lower()

    # Draw the chain of cells and their outputs. From c_(k-1) on, each output is the
    # second input of the next cell.
    centers = draw_chain(
        sheet,
        _CHAIN,
        left=_MARGIN,
        y=y,
        convolutions=_CELLS,
        name=name,
        first_arrow=1,
    )

    # Each output is also the first input of the cell after that: draw a bracket above
    # the boxes.
    for number, cell in enumerate(_CELLS):
        start = (centers[_BEFORE[cell]], upper)
        end = (centers[cell], upper)
        height = upper - 16 - 12 * number  # each bracket higher than the one before
        before = f"{name}-before{number}"
        sheet.bracket(start, end, Pen(dotted=True), y=height, name=before)
    if not skip:
        return

    # Draw inter-cell skips from the input of each cell to its output (section 4.2).
    pen = Pen(palette.SKIP, width=1.5)
    height = lower + 18
    for cell in _CELLS:
        # Not in the middle of a box, because one skip ends where the next begins.
        start = (centers[cell - 1] + 8, lower)
        end = (centers[cell + 1] - 8, lower)
        sheet.bracket(start, end, pen, y=height, name=f"{name}-skip{cell}")
