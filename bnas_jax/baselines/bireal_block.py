"""Bi-Real Net's block (arXiv 1808.00278): a shortcut around each convolution.

The shortcut carries the real-valued input of a convolution to the next one.
"""

from typing import ClassVar

import flax.linen as nn

from bnas_jax.baselines.block import Block, Projection
from bnas_jax.baselines.units import convolution
from bnas_jax.core.normalization import BatchNorm
from bnas_jax.core.schemes.activations import activated


class BiRealUnit(Block):
    """sign -> 3x3 convolution -> BN, added to the shortcut (Figure 3b).

    A shortcut that changes the shape averages 2x2 pixels where the stride is 2, then
    has a 1x1 convolution and a BN.

    The scheme's activation follows the convolution; Bi-Real Net has none. Under the
    scheme `float`, the scheme's activation replaces the sign, as in the float networks
    of the paper's pretraining: ReLU, then leaky clip, then clip (section 3.4).
    """

    @nn.compact
    def __call__(self, x, *, train: bool):
        # In a float network, an activation replaces the sign.
        y = x
        if not self.scheme.binary:
            y = activated(x, self.scheme.activation, arithmetic=self.arithmetic)
        y = self.normalized(y, train=train)
        return y + self.shortcut(x, train=train)

    def normalized(self, x, *, train: bool):
        """sign -> convolution -> BN, (N, H / stride, W / stride, features)."""
        # No BN before the sign: the input is a sum whose last term comes from a BN.
        conv = convolution(
            self.features,
            3,
            self.scheme,
            arithmetic=self.arithmetic,
            stride=self.stride,
            activation=True,  # the scheme's, which is `none` for Bi-Real Net
        )
        return BatchNorm(self.arithmetic, name="bn")(conv(x), train=train)

    def shortcut(self, x, *, train: bool):
        """x in the shape of the output."""
        if not self.changes_shape(x):
            return x

        # Average first, so that no pixel is skipped.
        if self.stride == 2:
            x = nn.avg_pool(x, (2, 2), strides=(2, 2))
        projection = Projection(
            features=self.features,
            stride=1,
            scheme=self.scheme,
            arithmetic=self.arithmetic,
            float_conv=self.float_shortcut,
            name="shortcut",
        )
        return projection(x, train=train)


class TwoUnits(Block):
    """Two units in sequence, the first with the block's stride.

    unit: the class of the units, which a subclass sets.
    """

    unit: ClassVar[type[Block]]
    # As in the code of Bi-Real Net and of ReActNet.
    stem_activation: ClassVar[str] = "none"

    @nn.compact
    def __call__(self, x, *, train: bool):
        for index, stride in enumerate((self.stride, 1)):
            unit = self.unit(
                features=self.features,
                stride=stride,
                scheme=self.scheme,
                arithmetic=self.arithmetic,
                float_shortcut=self.float_shortcut,
                name=f"unit{index}",
            )
            x = unit(x, train=train)
        return x


class BiRealBlock(TwoUnits):
    """Two `BiRealUnit`s; the network's stem has no ReLU."""

    unit: ClassVar[type[Block]] = BiRealUnit
