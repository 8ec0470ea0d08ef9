"""Draws the legend of a picture, which explains its colours and lines."""

from collections.abc import Sequence
from typing import NamedTuple

from bnas_jax.report import palette
from bnas_jax.report.layout import FONT_SIZE, Point, text_width
from bnas_jax.report.palette import Kind
from bnas_jax.report.sheet import Pen, Sheet

# Lengths in points.
_SYMBOL_WIDTH = 22.0
_SYMBOL_HEIGHT = 10.0
_TEXT_GAP = 5.0
_GAP = 18.0
ROW_HEIGHT = 18.0


class Entry(NamedTuple):
    """An entry of the legend. symbol: a kind of layer types (a box), or a line."""

    text: str
    symbol: Kind | Pen


TWO_BEFORE = Entry("from c_(k-2), two cells before", Pen(dotted=True, width=1.5))
SKIP = Entry("inter-cell skip", Pen(palette.SKIP, width=1.5))


def rows_of(entries: Sequence[Entry], width: float) -> list[list[tuple[float, Entry]]]:
    """Rows of (x, entry), none wider than `width`, unless a single entry is."""
    rows: list[list[tuple[float, Entry]]] = []
    x = 0.0
    for entry in entries:
        needed = entry_width(entry)
        # Begin a new row if this one is full.
        if not rows or x + needed > width:
            rows.append([])
            x = 0.0
        rows[-1].append((x, entry))
        x += needed + _GAP
    return rows


def entry_width(entry: Entry) -> float:
    """The width of an entry, with symbol and text."""
    return _SYMBOL_WIDTH + _TEXT_GAP + text_width(entry.text)


def draw_legend(
    sheet: Sheet, entries: Sequence[Entry], corner: Point, width: float
) -> None:
    """Draws the entries in rows of `width` points; `corner` is the upper left one."""
    left, top = corner
    for number, row in enumerate(rows_of(entries, width)):
        # The middle of the row.
        y = top + (number + 0.5) * ROW_HEIGHT
        for x, entry in row:
            _draw_symbol(sheet, entry, x=left + x, y=y)
            text_x = left + x + _SYMBOL_WIDTH + _TEXT_GAP
            sheet.text((text_x, y), entry.text, size=FONT_SIZE, align="left")


def _draw_symbol(sheet: Sheet, entry: Entry, *, x: float, y: float) -> None:
    """Draws the symbol, a line or a small box, to the right of (x, y)."""
    if isinstance(entry.symbol, Pen):
        end = (x + _SYMBOL_WIDTH, y)
        sheet.curve([(x, y), end], entry.symbol)
        return

    # The small box looks like the boxes of its kind.
    kind, border = entry.symbol, palette.BLACK
    if kind.pale:
        border = palette.PALE_LINE
    sheet.box(
        center=(x + _SYMBOL_WIDTH / 2, y),
        size=(_SYMBOL_WIDTH, _SYMBOL_HEIGHT),
        fill=kind.color,
        border=border,
        dashed=kind.pale,
    )
