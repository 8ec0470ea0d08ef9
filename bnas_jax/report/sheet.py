"""`Sheet`: boxes, lines and texts at given positions, saved as SVG or PNG.

Positions are in points. The sheet is drawn by matplotlib. The same drawing gives the
same file, byte for byte: without a date, and with fixed ids of elements. Text in an SVG
can be searched and copied.
"""

import contextlib
import io
import itertools
import logging
import pathlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from bnas_jax.report import palette

POINTS_PER_INCH = 72
RESOLUTION = 144  # of a PNG, in pixels per inch
_STYLE: dict[Any, str] = {
    "font.family": "monospace",
    "svg.fonttype": "none",
    "svg.hashsalt": "bnas_jax",
}
# The suffix of a file -> matplotlib's options: no date and no version in the file, and
# little compression of a PNG.
_OPTIONS: dict[str, dict[str, Any]] = {
    ".svg": {"metadata": {"Date": None, "Creator": None}},
    ".png": {"metadata": {"Software": None}, "pil_kwargs": {"compress_level": 3}},
}
# The suffixes of the files that can be written.
FORMATS = tuple(_OPTIONS)
# The size of arrowheads, and the radius of round corners, in points.
_HEAD_LENGTH, _HEAD_WIDTH = 6.0, 5.0
_CORNER = 8.0

Point = tuple[float, float]


class Pen(NamedTuple):
    """The style of a line. width: in points."""

    color: str = palette.LINE
    dotted: bool = False
    width: float = 1.0


@contextlib.contextmanager
def style() -> Iterator[None]:
    """A context with matplotlib's settings for these pictures.

    It ignores the user's settings, and silences messages about fonts and folders.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


class Sheet:
    """A white sheet of (width, height) points, for use within `style`.

    x grows to the right, and y downwards. In all methods, `name` is the id of the
    element in an SVG, which must be unique on a sheet.
    """

    def __init__(self, width: float, height: float):
        from matplotlib.figure import Figure
        from matplotlib.transforms import Affine2D

        size = (width / POINTS_PER_INCH, height / POINTS_PER_INCH)
        self._figure = Figure(figsize=size)
        # Transform points with y downwards to inches with y upwards, which matplotlib
        # transforms to pixels.
        inches = Affine2D().scale(1, -1).translate(0, height).scale(1 / POINTS_PER_INCH)
        self._points = inches + self._figure.dpi_scale_trans

    def box(
        self,
        center: Point,
        size: Point,
        *,
        fill: str,
        border: str = palette.BLACK,
        dashed: bool = False,
        name: str | None = None,
    ) -> None:
        """Draws a rectangle. size: (width, height)."""
        from matplotlib.patches import Rectangle

        # matplotlib needs the corner instead of the center.
        x, y = center
        width, height = size
        shape = Rectangle(
            (x - width / 2, y - height / 2),
            width,
            height,
            facecolor=fill,
            edgecolor=border,
            linewidth=0.8,
            zorder=2,
        )
        if dashed:
            shape.set_linestyle("dashed")
        self._add(shape, name)

    def text(
        self,
        place: Point,
        text: str,
        *,
        size: float,
        color: str = palette.BLACK,
        bold: bool = False,
        align: str = "center",
    ) -> None:
        """Writes a line of text, vertically centred at `place`.

        align: whether the left, center or right of the text is at `place`.
        """
        weight = "normal"
        if bold:
            weight = "bold"
        self._figure.text(
            *place,
            printable(text),
            size=size,
            color=color,
            weight=weight,
            ha=align,
            va="center_baseline",
            parse_math=False,
            transform=self._points,
            zorder=3,
        )

    def curve(
        self, points: Sequence[Point], pen: Pen, *, name: str | None = None
    ) -> None:
        """Draws a line that is horizontal at its points.

        It is curved to the second point, straight to the third, and so on.
        """
        from matplotlib.path import Path

        vertices: list[Point] = [points[0]]
        codes = [Path.MOVETO]
        for index, (start, end) in enumerate(itertools.pairwise(points)):
            # Every second piece is straight.
            if index % 2:
                vertices.append(end)
                codes.append(Path.LINETO)
                continue
            # A cubic Bezier curve: each control point has y of one end, and x halfway
            # to the other.
            (x, y), (end_x, end_y) = start, end
            middle = (x + end_x) / 2
            vertices += [(middle, y), (middle, end_y), end]
            codes += [Path.CURVE4] * 3
        self._path(vertices, codes, pen=pen, name=name)

    def arrow(
        self, points: Sequence[Point], pen: Pen, *, name: str | None = None
    ) -> None:
        """Draws a `curve` with an arrowhead."""
        # The line ends inside the head, so that the tip stays sharp.
        x, y = points[-1]
        end = (x - _HEAD_LENGTH + 1, y)
        self.curve([*points[:-1], end], pen, name=name)
        self._head((x, y), direction=(1, 0), color=pen.color)

    def bracket(
        self, start: Point, end: Point, pen: Pen, *, y: float, name: str
    ) -> None:
        """Draws an arrow with round corners.

        It leads from `start` vertically to y, then horizontally, then vertically to
        `end`.
        """
        from matplotlib.path import Path

        # down: 1 if y is below the points, else -1. The last point is inside the head.
        (left, begin), (right, goal) = start, end
        down = 1
        if y < begin:
            down = -1
        vertices = [
            start,
            (left, y - down * _CORNER),
            (left, y),
            (left + _CORNER, y),
            (right - _CORNER, y),
            (right, y),
            (right, y - down * _CORNER),
            (right, goal + down * (_HEAD_LENGTH - 1)),
        ]
        # Corners are quadratic curves, with straight lines between them.
        corner = [Path.CURVE3, Path.CURVE3]
        codes = [Path.MOVETO, Path.LINETO, *corner, Path.LINETO, *corner, Path.LINETO]
        self._path(vertices, codes, pen=pen, name=name)
        self._head(end, direction=(0, -down), color=pen.color)

    def save(self, path: pathlib.Path, suffix: str) -> None:
        """Writes the sheet. suffix: one of `FORMATS`."""
        self._figure.savefig(
            path,
            format=suffix[1:],
            dpi=RESOLUTION,
            **_OPTIONS[suffix],
        )

    def svg(self) -> str:
        """The sheet as an `svg` element."""
        return svg_of(self._figure)

    def _path(self, vertices, codes, *, pen: Pen, name: str | None) -> None:
        """Draws a line of several pieces. codes: matplotlib's code of each vertex."""
        from matplotlib.patches import PathPatch
        from matplotlib.path import Path

        path = Path(vertices, codes)
        shape = PathPatch(
            path,
            fill=False,
            edgecolor=pen.color,
            linewidth=pen.width,
            zorder=1,
        )
        # Dots are wider, because they would look paler than a line.
        if pen.dotted:
            shape.set_linestyle((0, (1, 2)))
            shape.set_linewidth(1.4 * pen.width)
        self._add(shape, name)

    def _head(self, tip: Point, *, direction: tuple[int, int], color: str) -> None:
        """Draws an arrowhead.

        direction: (1, 0) to the right, (0, 1) down, or (0, -1) up.
        """
        from matplotlib.patches import Polygon

        (x, y), (right, down) = tip, direction
        # A triangle: the tip, and two points on both sides of the middle of the back.
        back_x = x - _HEAD_LENGTH * right
        back_y = y - _HEAD_LENGTH * down
        aside_x = _HEAD_WIDTH / 2 * down
        aside_y = _HEAD_WIDTH / 2 * right
        one = (back_x - aside_x, back_y - aside_y)
        other = (back_x + aside_x, back_y + aside_y)
        head = Polygon(
            [tip, one, other],
            closed=True,
            facecolor=color,
            edgecolor="none",
            zorder=2,
        )
        self._add(head, None)

    def _add(self, artist, name: str | None) -> None:
        """Adds a matplotlib artist, with positions in points, to the sheet."""
        artist.set_gid(name)
        artist.set_transform(self._points)
        self._figure.add_artist(artist)


def svg_of(figure) -> str:
    """A matplotlib figure as an `svg` element, without the head of an SVG file."""
    file = io.StringIO()
    figure.savefig(file, format="svg", **_OPTIONS[".svg"])
    svg = file.getvalue()
    return svg[svg.index("<svg") :]


def printable(text: str) -> str:
    """The text with a replacement for each character that cannot be printed.

    Control characters, for instance, would make an SVG invalid.
    """
    shown = ""
    for character in text:
        if character.isprintable():
            shown += character
        else:
            shown += "\N{REPLACEMENT CHARACTER}"
    return shown
