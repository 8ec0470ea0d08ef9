"""Line charts of what a run recorded, as SVG text for a page. matplotlib draws, within `sheet.style`."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from bnas_jax.report import palette
from bnas_jax.report.sheet import printable, svg_of

# In inches, and of letters in points.
_SIZE = (6.4, 2.9)
_TITLE_SIZE, _TEXT_SIZE = 10, 8
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
    for number, line in enumerate(lines):
        places, values = _numbers(line.points)
        # A single point would be no line.
        marker = "o" if len(places) == 1 else None
        axes.plot(
            places,
            values,
            label=printable(line.name),
            color=_COLORS[number % len(_COLORS)],
            linestyle=_DASHES[number // len(_COLORS) % len(_DASHES)],
            linewidth=1.5,
            marker=marker,
        )
    axes.set_title(title, loc="left", size=_TITLE_SIZE)
    axes.set_xlabel(x, size=_TEXT_SIZE)
    axes.tick_params(labelsize=_TEXT_SIZE)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color=palette.STATE, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    # Beside the lines, so that it hides none.
    figure.legend(loc="outside right upper", frameon=False, fontsize=_TEXT_SIZE)
    return svg_of(figure)


def _numbers(points: Sequence[tuple[float, float | None]]) -> tuple[list[float], list[float]]:
    """x and y of a line; NaN, which makes a gap, where y is no finite number."""
    places, values = [], []
    for x, y in points:
        known = y is not None and math.isfinite(y)
        places.append(x)
        values.append(float(y) if known and y is not None else math.nan)
    return places, values
