"""A sheet to draw on: boxes, lines and texts by their places in points, written as SVG or PNG.

matplotlib draws. The same drawing gives the same bytes: no date, and numbers in place of random names. Texts of an SVG are
texts, which can be searched and copied.
"""

import contextlib
import logging
import pathlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from bnas_jax.report import palette

POINTS_PER_INCH = 72
# Of a PNG, in pixels an inch.
RESOLUTION = 144
# Of arrows.
HEAD_LENGTH = 6.0
HEAD_WIDTH = 5.0
FORMATS = (".svg", ".png")
_STYLE = {"font.family": "monospace", "svg.fonttype": "none", "svg.hashsalt": "bnas_jax", "path.simplify": False}
_NO_DATE = {".svg": {"Date": None, "Creator": None}, ".png": {"Software": None}}
Point = tuple[float, float]


@contextlib.contextmanager
def style() -> Iterator[None]:
    """matplotlib as these pictures need it, whatever its user has set, and without what it says of fonts and folders."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


class Sheet:
    """A white sheet of (width, height) points. x grows to the right, y downwards. Drawn on within `style`.

    name: an element's id in an SVG; the elements of one sheet have different ones.
    """

    def __init__(self, width: float, height: float):
        from matplotlib.figure import Figure

        self._figure = Figure(figsize=(width / POINTS_PER_INCH, height / POINTS_PER_INCH))
        self._axes: Any = self._figure.add_axes((0, 0, 1, 1))
        self._axes.set_xlim(0, width)
        self._axes.set_ylim(height, 0)
        self._axes.axis("off")

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
        """A rectangle."""
        from matplotlib.patches import Rectangle

        corner = (center[0] - size[0] / 2, center[1] - size[1] / 2)
        border_style = "solid"
        if dashed:
            border_style = "dashed"
        shape = Rectangle(corner, *size, facecolor=fill, edgecolor=border, linewidth=0.8, linestyle=border_style, zorder=2)
        shape.set_gid(name)
        self._axes.add_patch(shape)

    def text(
        self, place: Point, text: str, *, size: float, color: str = palette.BLACK, bold: bool = False, align: str = "center"
    ) -> None:
        """A line of text, at half its height. align: which part of it stands at the place: left, center or right."""
        weight = "normal"
        if bold:
            weight = "bold"
        self._axes.text(
            *place,
            printable(text),
            size=size,
            color=color,
            weight=weight,
            ha=align,
            va="center_baseline",
            parse_math=False,
            zorder=3,
        )

    def curve(
        self, points: Sequence[Point], *, color: str, dotted: bool = False, width: float = 1.0, name: str | None = None
    ) -> None:
        """A line that leaves and reaches its points horizontally: curved to the second, straight to the third, and so on."""
        from matplotlib.path import Path

        vertices: list[Point] = [points[0]]
        codes = [Path.MOVETO]
        for index, (start, end) in enumerate(zip(points[:-1], points[1:], strict=True)):
            if index % 2:
                vertices.append(end)
                codes.append(Path.LINETO)
            else:
                middle = (start[0] + end[0]) / 2
                vertices += [(middle, start[1]), (middle, end[1]), end]
                codes += [Path.CURVE4] * 3
        self._path(vertices, codes, color=color, dotted=dotted, width=width, name=name)

    def bracket(
        self, start: Point, end: Point, *, y: float, color: str, dotted: bool = False, width: float = 1.0, name: str | None = None
    ) -> None:
        """An arrow with round corners: from a point up or down to the height y, along it, and to another point."""
        from matplotlib.path import Path

        down = -1 if y < start[1] else 1
        radius = 8.0
        vertices = [
            start,
            (start[0], y - down * radius),
            (start[0], y),
            (start[0] + radius, y),
            (end[0] - radius, y),
            (end[0], y),
            (end[0], y - down * radius),
            (end[0], end[1] + down * (HEAD_LENGTH - 1)),
        ]
        corner = [Path.CURVE3, Path.CURVE3]
        codes = [Path.MOVETO, Path.LINETO, *corner, Path.LINETO, *corner, Path.LINETO]
        self._path(vertices, codes, color=color, dotted=dotted, width=width, name=name)
        self._arrow_head(end, (0, -down), color=color)

    def arrow(
        self, points: Sequence[Point], *, color: str, dotted: bool = False, width: float = 1.0, name: str | None = None
    ) -> None:
        """A `curve` with a head at its end."""
        x, y = points[-1]
        self.curve([*points[:-1], (x - HEAD_LENGTH + 1, y)], color=color, dotted=dotted, width=width, name=name)
        self._arrow_head((x, y), (1, 0), color=color)

    def _path(self, vertices, codes, *, color: str, dotted: bool, width: float, name: str | None) -> None:
        from matplotlib.patches import PathPatch
        from matplotlib.path import Path

        line_style: Any = "solid"
        if dotted:
            line_style = (0, (1, 2))
            width *= 1.4
        shape = PathPatch(Path(vertices, codes), fill=False, edgecolor=color, linewidth=width, linestyle=line_style, zorder=1)
        shape.set_gid(name)
        self._axes.add_patch(shape)

    def _arrow_head(self, tip: Point, direction: tuple[int, int], *, color: str) -> None:
        """A triangle. direction: (1, 0) to the right, (0, 1) down, (0, -1) up."""
        from matplotlib.patches import Polygon

        (x, y), (right, down) = tip, direction
        back = (x - HEAD_LENGTH * right, y - HEAD_LENGTH * down)
        aside = (HEAD_WIDTH / 2 * down, HEAD_WIDTH / 2 * right)
        corners = [tip, (back[0] - aside[0], back[1] - aside[1]), (back[0] + aside[0], back[1] + aside[1])]
        self._axes.add_patch(Polygon(corners, closed=True, facecolor=color, edgecolor="none", zorder=2))

    def save(self, path: pathlib.Path, suffix: str) -> None:
        """Writes the sheet. suffix: one of `FORMATS`."""
        self._figure.savefig(path, format=suffix[1:], dpi=RESOLUTION, metadata=_NO_DATE[suffix])


def printable(text: str) -> str:
    """A text in one line, without the characters that no picture can show."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
