"""The colours of pictures, which colour-blind readers can tell apart.

They are from Paul Tol's "Colour Schemes" (SRON/EPS/TN/09-002, issue 3.2, 2021). Boxes
have colours of the scheme "light", which is made for black text; lines have colours of
the scheme "vibrant". The legend explains the colours, and each box has the name of its
layer type.
"""

from typing import NamedTuple

from bnas_jax.core.genotype import FIXED_REDUCTION, ZEROISE

BLACK = "#000000"
WHITE = "#FFFFFF"
LINE = "#555555"
# Edges of Zeroise are pale, but their text is dark enough to be read.
PALE_LINE = "#BBBBBB"
PALE_TEXT = "#767676"
STATE = "#DDDDDD"  # "light": pale grey
SKIP = "#CC3311"  # "vibrant": red


class Kind(NamedTuple):
    """Layer types with the same colour. pale: whether their edges are drawn pale."""

    name: str
    color: str
    pale: bool = False


CONVOLUTION = Kind("convolution", "#77AADD")  # light blue
DILATED = Kind("dilated convolution", "#EEDD88")  # light yellow
SEPARABLE = Kind("separable convolution", "#EE8866")  # orange
POOLING = Kind("pooling", "#44BB99")  # mint
IDENTITY = Kind("identity", "#FFAABB")  # pink, as in the paper's Figures 7 and 8
ZEROS = Kind("Zeroise (none)", WHITE, pale=True)
HAND_MADE = Kind("hand-made cell", STATE)
OTHER = Kind("another layer type", "#BBCC33")  # pear

# The order of a legend.
KINDS = (CONVOLUTION, DILATED, SEPARABLE, POOLING, IDENTITY, ZEROS, HAND_MADE, OTHER)

# Layer type -> its kind.
_KINDS = {
    "bin_conv_3x3": CONVOLUTION,
    "bin_conv_5x5": CONVOLUTION,
    "conv_7x1_1x7": CONVOLUTION,
    "bin_dil_conv_3x3": DILATED,
    "bin_dil_conv_5x5": DILATED,
    "dil_conv_3x3": DILATED,
    "dil_conv_5x5": DILATED,
    "sep_conv_3x3": SEPARABLE,
    "sep_conv_5x5": SEPARABLE,
    "sep_conv_7x7": SEPARABLE,
    "mobinet_3x3": SEPARABLE,
    "mobinet_k4_3x3": SEPARABLE,
    "max_pool_3x3": POOLING,
    "avg_pool_3x3": POOLING,
    "skip_connect": IDENTITY,
    ZEROISE: ZEROS,
    FIXED_REDUCTION: HAND_MADE,
}


def kind(layer_type: str) -> Kind:
    """The kind of a layer type; `OTHER` for those that users add."""
    return _KINDS.get(layer_type, OTHER)
