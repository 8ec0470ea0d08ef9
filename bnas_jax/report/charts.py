"""Line charts of what a run recorded, as SVG text for a page. matplotlib draws, within `sheet.style`."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from bnas_jax.report import palette
from bnas_jax.report.sheet import printable, svg_of

# In inches, and of letters in points.
_SIZE = (6.4, 2.9)
_TITLE_SIZE, _TEXT_SIZE = 10, 8
_LONGEST_NAME = 32  # letters
# Of Paul Tol's scheme "bright", whose lines colour-blind readers can tell apart; more lines are dashed.
_COLORS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#888888")
_DASHES = ("solid", "dashed", "dotted")


class Line(NamedTuple):
    """name: in the legend. points: (x, y) each; those that are not finite are left out, and the line has a gap."""

    name: str
    points: Sequence[tuple[float, float | None]]


def chart(title: str, lines: Sequence[Line], *, x: str = "epoch") -> str:
    """An SVG of the lines over one axis. x: what the axis counts."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    drawn = []
    for number, line in enumerate(lines):
        places, values = _numbers(line.points)
        # A single point would be no line.
        marker = "o" if len(places) == 1 else None
        drawn += axes.plot(
            places,
            values,
            color=_COLORS[number % len(_COLORS)],
            linestyle=_DASHES[number // len(_COLORS) % len(_DASHES)],
            linewidth=1.5,
            marker=marker,
        )
    axes.set_title(title, loc="left", size=_TITLE_SIZE, parse_math=False)
    axes.set_xlabel(x, size=_TEXT_SIZE)
    axes.tick_params(labelsize=_TEXT_SIZE)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color=palette.STATE, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    # Beside the lines, so that it hides none. With handles of its own: a name that begins with "_" would be left out.
    names = [_short(line.name) for line in lines]
    legend = figure.legend(
        drawn, names, loc="outside right upper", frameon=False, fontsize=_TEXT_SIZE
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return svg_of(figure)


def _short(name: str) -> str:
    """A name that leaves room for the lines."""
    name = printable(name)
    if len(name) <= _LONGEST_NAME:
        return name
    return name[: _LONGEST_NAME - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _numbers(points: Sequence[tuple[float, float | None]]) -> tuple[list[float], list[float]]:
    """x and y of a line; NaN, which makes a gap, where y is no finite number."""
    places, values = [], []
    for x, y in points:
        places.append(x)
        # A whole number of JSON can be larger than any float.
        try:
            value = math.nan if y is None else float(y)
        except OverflowError:
            value = math.nan
        values.append(value if math.isfinite(value) else math.nan)
    return places, values
