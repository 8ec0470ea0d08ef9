"""Line charts and scatter charts as SVG text.

They are drawn by matplotlib, and must be called within `sheet.style`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from bnas_jax.report import palette
from bnas_jax.report.sheet import printable, svg_of

_SIZE = (6.4, 2.9)  # a chart, in inches
_TITLE_SIZE, _TEXT_SIZE = 10, 8  # font sizes, in points
_LONGEST_NAME = 32  # characters
_POINT_SIZE, _LABEL_SIZE, _LABEL_OFFSET = 16, 7, (4, 3)
# Colours of Paul Tol's scheme "bright", which colour-blind readers can tell apart. If
# there are more lines than colours, further lines are dashed.
_COLORS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#888888")
_DASHES = ("solid", "dashed", "dotted")
_MARKERS = ("o", "s", "^")


class Line(NamedTuple):
    """A line of a chart.

    name: the name in the legend.
    points: pairs (x, y). A y that is None or not finite makes a gap.
    """

    name: str
    points: Sequence[tuple[float, float | None]]


class Points(NamedTuple):
    """A group of points of one colour.

    name: the name in the legend; "" leaves the group out of the legend.
    points: pairs (x, y).
    labels: a text for each point, or ().
    style: the number of its colour and marker; by default the position of the group.
    hollow: whether the points are rings.
    """

    name: str
    points: Sequence[tuple[float, float]]
    labels: Sequence[str] = ()
    style: int | None = None
    hollow: bool = False


def chart(
    title: str, lines: Sequence[Line], *, x: str = "epoch", log: bool = False
) -> str:
    """An SVG of the lines.

    x: the label of the x axis.
    log: whether the y axis is logarithmic.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = _plot(title, x=x)
    drawn = []
    for number, line in enumerate(lines):
        drawn += _draw_line(axes, line, number=number, log=log)

    # With a single epoch, x has only one tick: more would be fractions of an epoch.
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if log:
        axes.set_yscale("log")
        _mark_zeros(axes, lines)
    _add_legend(figure, drawn, [line.name for line in lines])
    return svg_of(figure)


def _draw_line(axes, line: Line, *, number: int, log: bool) -> list:
    """Draws a line; returns matplotlib's objects. number: its position in the lines."""
    places, values = _numbers(line.points)
    # A point between two gaps is not part of a line, and gets a marker.
    marked = _alone(values)
    size = None
    if log:
        # A logarithmic axis cannot show zeros, which `_mark_zeros` draws. All other
        # points get a marker here.
        values = [math.nan if value == 0 else value for value in values]
        marked = list(range(len(places)))
        size = 3

    dash = number // len(_COLORS) % len(_DASHES)
    return axes.plot(
        places,
        values,
        color=_COLORS[number % len(_COLORS)],
        linestyle=_DASHES[dash],
        linewidth=1.5,
        marker="o" if marked else None,
        markevery=marked or None,
        markersize=size,
    )


def _alone(values: Sequence[float]) -> list[int]:
    """The positions of the numbers between two gaps. values: NaN is a gap."""
    # there[i + 1] says whether values[i] is a number; both ends are gaps.
    there = [False, *map(math.isfinite, values), False]
    found = []
    for position in range(len(values)):
        before, here, behind = there[position : position + 3]
        if here and not before and not behind:
            found.append(position)
    return found


def _mark_zeros(axes, lines: Sequence[Line]) -> None:
    """Draws zeros as crosses at the lower edge, because a logarithmic axis has none."""
    if any(y == 0 for line in lines for _, y in line.points):
        axes.set_xlabel(f"{axes.get_xlabel()}; a cross is 0")
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


def scatter(
    title: str, groups: Sequence[Points], *, x: str, y: str, log: bool = False
) -> str:
    """An SVG of points.

    x, y: the labels of the axes.
    log: whether the x axis is logarithmic.
    """
    figure, axes = _plot(title, x=x)
    axes.set_ylabel(y, size=_TEXT_SIZE)
    drawn, names = [], []
    for number, group in enumerate(groups):
        # Each style has a colour; if there are more styles, markers differ, too.
        style = number if group.style is None else group.style
        color = _COLORS[style % len(_COLORS)]
        marker = style // len(_COLORS) % len(_MARKERS)

        # Draw the points and their labels.
        points = axes.scatter(
            [place for place, _ in group.points],
            [value for _, value in group.points],
            s=_POINT_SIZE,
            marker=_MARKERS[marker],
            facecolors="none" if group.hollow else color,
            edgecolors=color,
            linewidths=1.0 if group.hollow else 0.0,
        )
        if group.name:
            drawn.append(points)
            names.append(group.name)
        _label(axes, group, color=color)
    if log:
        axes.set_xscale("log")
    _add_legend(figure, drawn, names)
    return svg_of(figure)


def _label(axes, group: Points, *, color: str) -> None:
    """Writes the labels next to the points of a group, on a white background."""
    ground = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5}
    for point, label in zip(group.points, group.labels, strict=False):
        axes.annotate(
            _short(label),
            point,
            xytext=_LABEL_OFFSET,
            textcoords="offset points",
            size=_LABEL_SIZE,
            color=color,
            parse_math=False,
            bbox=ground,
        )


def _plot(title: str, *, x: str):
    """(a figure, its axes) in the style of all charts."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    # parse_math: a $ in a name does not begin a formula.
    axes.set_title(title, loc="left", size=_TITLE_SIZE, parse_math=False)
    axes.set_xlabel(x, size=_TEXT_SIZE)
    axes.tick_params(labelsize=_TEXT_SIZE)

    # A pale grid behind the lines, and a frame only at the left and below.
    axes.grid(color=palette.STATE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _add_legend(figure, drawn: Sequence, names: Sequence[str]) -> None:
    """Adds a legend outside the axes, so that it hides no line."""
    # Given only labels, matplotlib would leave out a name that begins with "_".
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
    """A name, cut if it is too long for the legend."""
    name = printable(name)
    if len(name) <= _LONGEST_NAME:
        return name
    return name[: _LONGEST_NAME - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _numbers(
    points: Sequence[tuple[float, float | None]],
) -> tuple[list[float], list[float]]:
    """(x, y) of a line, as two lists; a y that is None or not finite becomes NaN."""
    places, values = [], []
    for x, y in points:
        places.append(x)
        # An integer from JSON can be larger than any float.
        try:
            value = math.nan if y is None else float(y)
        except OverflowError:
            value = math.nan
        values.append(value if math.isfinite(value) else math.nan)
    return places, values
