"""The block of PCNN (arXiv 1811.12755) and of CBCN (arXiv 1910.10853).

Each convolution has a shortcut and a PReLU.
"""

from typing import Any, ClassVar

import flax.linen as nn

from bnas_jax.baselines.bireal_block import TwoUnits
from bnas_jax.baselines.block import Block, Projection
from bnas_jax.baselines.units import ConvUnit
from bnas_jax.core.schemes.activations import PRelu


class PcnnUnit(Block):
    """BN -> sign -> 3x3 convolution, added to the shortcut, and a PReLU after the sum.

    A shortcut that changes the shape is a convolution of stride 1, then an average
    pooling with windows of the stride's size.

    How sure: agrees with the published test code of PCNN's authors, and with the
    training code of CBCN's.
    """

    @nn.compact
    def __call__(self, x, *, train: bool):
        common: dict[str, Any] = {
            "features": self.features,
            "scheme": self.scheme,
            "arithmetic": self.arithmetic,
        }
        conv = ConvUnit(
            kernel=3, stride=self.stride, activation=False, name="unit", **common
        )
        y = conv(x, train=train)  # (N, H / stride, W / stride, features)

        # The shortcut: first to the features, then to the size of the output.
        if self.changes_shape(x):
            projection = Projection(
                stride=1,
                float_conv=self.float_shortcut,
                name="shortcut",
                **common,
            )
            x = projection(x, train=train)
            window = (self.stride, self.stride)
            x = nn.avg_pool(x, window, strides=window)
        return PRelu(self.arithmetic, name="prelu")(x + y)


class PcnnBlock(TwoUnits):
    """Two `PcnnUnit`s; the network's stem has a PReLU.

    CBCN's published ResNet18 for CIFAR has widths of 64, 64, 128 and 256: four
    orientations each of 16, 16, 32 and 64 features.
    """

    unit: ClassVar[type[Block]] = PcnnUnit
    stem_activation: ClassVar[str] = "prelu"
