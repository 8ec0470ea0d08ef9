"""XNOR-Net's block, and ResNet's float one."""

from typing import Any

import flax.linen as nn

from bnas_jax.baselines.block import Block, Projection
from bnas_jax.baselines.units import ConvUnit


class XnorBlock(Block):
    """XNOR-Net's pre-activation block (arXiv 1603.05279).

    It is BN -> sign -> convolution twice, and a shortcut around both. The scheme's
    activation follows only the first convolution, so that values of both signs are
    added to the shortcut.

    Under the scheme `float` it is the block of ResNet (arXiv 1512.03385): convolution
    -> BN twice, with ReLUs between and at the end.
    """

    @nn.compact
    def __call__(self, x, *, train: bool):
        common: dict[str, Any] = {
            "features": self.features,
            "scheme": self.scheme,
            "arithmetic": self.arithmetic,
        }
        # Both convolutions: (N, H / stride, W / stride, features).
        first = ConvUnit(kernel=3, stride=self.stride, name="unit0", **common)
        second = ConvUnit(kernel=3, activation=False, name="unit1", **common)
        y = second(first(x, train=train), train=train)

        # The shortcut.
        if self.changes_shape(x):
            projection = Projection(
                stride=self.stride,
                float_conv=self.float_shortcut,
                name="shortcut",
                **common,
            )
            x = projection(x, train=train)

        # A float block ends with a ReLU; a binary one keeps both signs for the next BN.
        if self.scheme.binary:
            return x + y
        return nn.relu(x + y)
