"""Line charts and points, as SVG text for a page or a file. matplotlib draws, within `sheet.style`."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from bnas_jax.report import palette
from bnas_jax.report.sheet import printable, svg_of

# In inches, and of letters in points.
_SIZE = (6.4, 2.9)
_TITLE_SIZE, _TEXT_SIZE = 10, 8
_LONGEST_NAME = 32  # letters
_POINT_SIZE, _LABEL_SIZE, _LABEL_OFFSET = 12, 6, (3, 2)
# Of Paul Tol's scheme "bright", whose lines colour-blind readers can tell apart; more lines are dashed.
_COLORS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#888888")
_DASHES = ("solid", "dashed", "dotted")


class Line(NamedTuple):
    """name: in the legend. points: (x, y) each; those that are not finite are left out, and the line has a gap."""

    name: str
    points: Sequence[tuple[float, float | None]]


class Points(NamedTuple):
    """name: in the legend. points: (x, y) each. labels: a text beside each point, or none."""

    name: str
    points: Sequence[tuple[float, float]]
    labels: Sequence[str] = ()


def chart(title: str, lines: Sequence[Line], *, x: str = "epoch", log: bool = False) -> str:
    """An SVG of the lines over one axis. x: what the axis counts. log: whether the other axis is logarithmic."""
    from matplotlib.ticker import MaxNLocator

    figure, axes = _plot(title, x=x)
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
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if log:
        axes.set_yscale("log")
        _mark_zeros(axes, lines)
    _add_legend(figure, drawn, [line.name for line in lines])
    return svg_of(figure)


def _mark_zeros(axes, lines: Sequence[Line]) -> None:
    """Crosses at the lower edge for the zeros, which a logarithmic axis has no place for."""
    for number, line in enumerate(lines):
        places = [x for x, y in line.points if y == 0]
        axes.plot(
            places,
            [0.0] * len(places),
            "x",
            color=_COLORS[number % len(_COLORS)],
            transform=axes.get_xaxis_transform(),
            clip_on=False,
        )


def scatter(title: str, groups: Sequence[Points], *, x: str, y: str, log: bool = False) -> str:
    """An SVG of points, those of a group in one colour. x, y: what the axes count. log: whether x is logarithmic."""
    figure, axes = _plot(title, x=x)
    axes.set_ylabel(y, size=_TEXT_SIZE)
    drawn = []
    for number, group in enumerate(groups):
        places = [point[0] for point in group.points]
        values = [point[1] for point in group.points]
        color = _COLORS[number % len(_COLORS)]
        drawn.append(axes.scatter(places, values, color=color, s=_POINT_SIZE, linewidths=0))
        for point, label in zip(group.points, group.labels, strict=False):
            axes.annotate(
                _short(label),
                point,
                xytext=_LABEL_OFFSET,
                textcoords="offset points",
                size=_LABEL_SIZE,
                color=color,
                parse_math=False,
            )
    if log:
        axes.set_xscale("log")
    _add_legend(figure, drawn, [group.name for group in groups])
    return svg_of(figure)


def _plot(title: str, *, x: str):
    """(a figure, its axes) in the style of all charts."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", size=_TITLE_SIZE, parse_math=False)
    axes.set_xlabel(x, size=_TEXT_SIZE)
    axes.tick_params(labelsize=_TEXT_SIZE)
    axes.grid(color=palette.STATE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _add_legend(figure, drawn: Sequence, names: Sequence[str]) -> None:
    """A legend beside the lines, so that it hides none."""
    # With handles of its own: a name that begins with "_" would be left out.
    legend = figure.legend(
        drawn,
        [_short(name) for name in names],
        loc="outside right upper",
        frameon=False,
        fontsize=_TEXT_SIZE,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


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
