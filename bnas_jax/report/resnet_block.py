"""Draws the blocks of ResNet18 with XNOR-Net's binarization (Figure 6a).

Shortcuts are those for CIFAR-10. On ImageNet, XNOR-Net also binarizes the convolutions
of shortcuts.
"""

from bnas_jax.report import legend, palette
from bnas_jax.report.chain import chain_width, draw_chain
from bnas_jax.report.heights import BOX_HEIGHT
from bnas_jax.report.layout import FONT_SIZE, box_width
from bnas_jax.report.palette import Kind
from bnas_jax.report.sheet import Pen, Sheet

# A block is a chain of two binary convolutions, with a shortcut below it.
_CHAIN = ("c_(k-1)", "bin_conv_3x3", "bin_conv_3x3", "c_(k)")
_HALVING = ("c_(k-1)", "bin_conv_3x3, stride 2", "bin_conv_3x3", "c_(k)")
_CONVOLUTIONS = (1, 2)
# The convolution in the shortcut of a block that halves the image.
_SHORTCUT = "conv_1x1, stride 2"

# Lengths in points.
_MARGIN = 14.0
_TITLE_SIZE = 11.0
# From the top of a panel to the middle of its chain, from there to its shortcut, and
# from the shortcut to the next panel.
_ABOVE, _BELOW, _BEHIND = 42.0, 42.0, 28.0

_SHORTCUT_PEN = Pen(palette.SKIP, width=1.5)
_FLOAT = Kind("float convolution", palette.OTHER.color)
_ENTRIES = (
    legend.Entry("binary convolution", palette.CONVOLUTION),
    legend.Entry("float convolution", _FLOAT),
    legend.Entry("shortcut, which is added", _SHORTCUT_PEN),
)


def resnet_blocks() -> Sheet:
    """A block that keeps the image size, and below it a block that halves it."""
    width = chain_width(_HALVING)
    panel = _ABOVE + _BELOW + _BEHIND
    legend_top = _MARGIN + 2 * panel
    legend_height = len(legend.rows_of(_ENTRIES, width)) * legend.ROW_HEIGHT
    sheet = Sheet(
        width=width + 2 * _MARGIN,
        height=legend_top + legend_height + _MARGIN,
    )
    _draw(
        sheet,
        _CHAIN,
        top=_MARGIN,
        title="ResNet18, XNOR-Net: a block",
        name="block",
        shortcut=None,
    )
    _draw(
        sheet,
        _HALVING,
        top=_MARGIN + panel,
        title="ResNet18, XNOR-Net: a block that halves the image",
        name="halving",
        shortcut=_SHORTCUT,
    )
    legend.draw_legend(sheet, _ENTRIES, corner=(_MARGIN, legend_top), width=width)
    return sheet


def _draw(
    sheet: Sheet,
    chain: tuple[str, ...],
    *,
    top: float,
    title: str,
    name: str,
    shortcut: str | None,
) -> None:
    """Draws one block.

    top: y of the upper side of the panel.
    name: the prefix of the ids of its elements.
    shortcut: the convolution in the shortcut, or None.
    """
    title_place = (_MARGIN, top + _TITLE_SIZE / 2)
    sheet.text(title_place, title, size=_TITLE_SIZE, bold=True, align="left")
    y = top + _ABOVE

    centers = draw_chain(
        sheet, chain, left=_MARGIN, y=y, convolutions=_CONVOLUTIONS, name=name
    )

    # Draw the shortcut from the input to the output.
    lower = y + BOX_HEIGHT / 2
    height = y + _BELOW
    start, end = (centers[0], lower), (centers[-1], lower)
    sheet.bracket(start, end, _SHORTCUT_PEN, y=height, name=f"{name}-shortcut")
    if shortcut is not None:
        middle = ((centers[0] + centers[-1]) / 2, height)
        size = (box_width(shortcut), BOX_HEIGHT)
        sheet.box(middle, size, fill=_FLOAT.color, name=f"{name}-convolution")
        sheet.text(middle, shortcut, size=FONT_SIZE)
