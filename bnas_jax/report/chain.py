"""Draws a chain of boxes from left to right, with an arrow from each to the next."""

from collections.abc import Collection, Sequence

from bnas_jax.report import palette
from bnas_jax.report.heights import BOX_HEIGHT
from bnas_jax.report.layout import FONT_SIZE, box_width
from bnas_jax.report.sheet import Pen, Sheet

# The gap between two boxes, in points.
_GAP = 40.0


def chain_width(texts: Sequence[str]) -> float:
    """The width of a chain, in points."""
    boxes = sum(box_width(text) for text in texts)
    return boxes + _GAP * (len(texts) - 1)


def draw_chain(
    sheet: Sheet,
    texts: Sequence[str],
    *,
    left: float,
    y: float,
    convolutions: Collection[int],
    name: str,
    first_arrow: int = 0,
) -> list[float]:
    """Draws a chain; returns x of the middle of each box, in points.

    left: x of the left side of the first box.
    y: y of the middle of all boxes.
    convolutions: the positions of the boxes with the colour of convolutions.
    name: the prefix of the ids of its elements.
    first_arrow: the position of the box where the first arrow begins.
    """
    # Draw the boxes side by side.
    centers, sides = [], []
    for number, text in enumerate(texts):
        fill = palette.STATE
        if number in convolutions:
            fill = palette.CONVOLUTION.color
        width = box_width(text)
        center = (left + width / 2, y)
        sheet.box(center, (width, BOX_HEIGHT), fill=fill, name=f"{name}-box{number}")
        sheet.text(center, text, size=FONT_SIZE)
        centers.append(center[0])
        sides.append((left, left + width))
        left += width + _GAP

    # Draw arrows from the right side of a box to the left side of the next.
    for number in range(first_arrow, len(texts) - 1):
        _, start = sides[number]
        end, _ = sides[number + 1]
        sheet.arrow([(start, y), (end, y)], Pen(), name=f"{name}-line{number}")
    return centers
