"""ReActNet's block for ResNets (arXiv 2003.03488).

It is Bi-Real Net's block with learned shifts and slopes.
"""

from typing import ClassVar

import flax.linen as nn

from bnas_jax.baselines.bireal_block import BiRealUnit, TwoUnits
from bnas_jax.baselines.block import Block
from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.schemes.activations import PRelu


class RPRelu(nn.Module):
    """PReLU(x + b1) + b2 with learned shifts b1, b2 and slope of each channel (Eq. 2).

    The shifts begin at 0, the slopes at 1/4.
    """

    arithmetic: Arithmetic

    @nn.compact
    def __call__(self, x):
        shape, dtype = x.shape[-1:], self.arithmetic.dtype
        # b1, the slope, b2 of Eq. (2).
        x = x + self.param("before", nn.initializers.zeros, shape, dtype)
        x = PRelu(self.arithmetic, name="prelu")(x)
        return x + self.param("after", nn.initializers.zeros, shape, dtype)


class ReActNetUnit(BiRealUnit):
    """Bi-Real Net's unit, and an RPReLU after the sum with the shortcut.

    The shift before the sign belongs to the scheme `reactnet`.
    """

    @nn.compact
    def __call__(self, x, *, train: bool):
        # RSign belongs to the scheme, RPReLU to the block.
        y = self.normalized(x, train=train) + self.shortcut(x, train=train)
        return RPRelu(self.arithmetic, name="rprelu")(y)


class ReActNetBlock(TwoUnits):
    """Two `ReActNetUnit`s; the network's stem has no ReLU."""

    unit: ClassVar[type[Block]] = ReActNetUnit
