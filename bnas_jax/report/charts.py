"""Line charts and points, as SVG text for a page or a file. matplotlib draws, within
`sheet.style`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from bnas_jax.report import palette
from bnas_jax.report.sheet import printable, svg_of

# In inches, and of letters in points.
_SIZE = (6.4, 2.9)
_TITLE_SIZE, _TEXT_SIZE = 10, 8
_LONGEST_NAME = 32  # letters
_POINT_SIZE, _LABEL_SIZE, _LABEL_OFFSET = 16, 7, (4, 3)
# Of Paul Tol's scheme "bright", whose lines colour-blind readers can tell apart; more
# lines are dashed.
_COLORS = ("#4477AA", "#EE6677", "#228833", "#CCBB44", "#66CCEE", "#AA3377", "#888888")
_DASHES = ("solid", "dashed", "dotted")
_MARKERS = ("o", "s", "^")


class Line(NamedTuple):
    """name: in the legend. points: (x, y) each; those that are not finite are left out,
    and the line has a gap.
    """

    name: str
    points: Sequence[tuple[float, float | None]]


class Points(NamedTuple):
    """Points of one colour. points: (x, y) each. name: in the legend, none without one.
    labels: a text beside each, or none.

    style: its number among colours and markers, by default its place among the groups.
    hollow: whether they are rings.
    """

    name: str
    points: Sequence[tuple[float, float]]
    labels: Sequence[str] = ()
    style: int | None = None
    hollow: bool = False


def chart(
    title: str, lines: Sequence[Line], *, x: str = "epoch", log: bool = False
) -> str:
    """An SVG of the lines over one axis. x: what the axis counts. log: whether the
    other axis is logarithmic.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = _plot(title, x=x)
    drawn = []
    for number, line in enumerate(lines):
        places, values = _numbers(line.points)
        if log:
            # They have no place there, and are marked apart.
            values = [math.nan if value == 0 else value for value in values]
        # A point between two gaps is no line: it alone is marked, and all of them on a
        # logarithmic axis.
        marked = list(range(len(places))) if log else _alone(values)
        drawn += axes.plot(
            places,
            values,
            color=_COLORS[number % len(_COLORS)],
            linestyle=_DASHES[number // len(_COLORS) % len(_DASHES)],
            linewidth=1.5,
            marker="o" if marked else None,
            markevery=marked or None,
            markersize=3 if log else None,
        )
    # With a single epoch there is one mark: more would be fractions of it.
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if log:
        axes.set_yscale("log")
        _mark_zeros(axes, lines)
    _add_legend(figure, drawn, [line.name for line in lines])
    return svg_of(figure)


def _alone(values: Sequence[float]) -> list[int]:
    """The positions of the numbers that have none on either side; values: with NaN for
    gaps.
    """
    there = [False, *map(math.isfinite, values), False]
    return [
        position
        for position in range(len(values))
        if there[position + 1] and not there[position] and not there[position + 2]
    ]


def _mark_zeros(axes, lines: Sequence[Line]) -> None:
    """Crosses at the lower edge for the zeros, which a logarithmic axis has no place
    for.
    """
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
    """An SVG of points. x, y: what the axes count. log: whether x is logarithmic."""
    figure, axes = _plot(title, x=x)
    axes.set_ylabel(y, size=_TEXT_SIZE)
    drawn, names = [], []
    for number, group in enumerate(groups):
        style = number if group.style is None else group.style
        color = _COLORS[style % len(_COLORS)]
        points = axes.scatter(
            [place for place, _ in group.points],
            [value for _, value in group.points],
            s=_POINT_SIZE,
            marker=_MARKERS[style // len(_COLORS) % len(_MARKERS)],
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
    """The texts beside the points of a group, on a ground of their own."""
    for point, label in zip(group.points, group.labels, strict=False):
        axes.annotate(
            _short(label),
            point,
            xytext=_LABEL_OFFSET,
            textcoords="offset points",
            size=_LABEL_SIZE,
            color=color,
            parse_math=False,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
        )


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


def _numbers(
    points: Sequence[tuple[float, float | None]],
) -> tuple[list[float], list[float]]:
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
