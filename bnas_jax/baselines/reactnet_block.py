"""ReActNet's block for ResNets (arXiv 2003.03488): Bi-Real's with learned shifts and
slopes.
"""

from typing import ClassVar

import flax.linen as nn

from bnas_jax.baselines.bireal_block import BiRealUnit, TwoUnits
from bnas_jax.baselines.block import Block
from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.modules import PRelu


class RPRelu(nn.Module):
    """PReLU between two learned shifts of each channel (Eq. 2): PReLU(x + b1) + b2,
    from zeros and
    slopes of 1/4.
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
    """Bi-Real's unit, and RPReLU behind the sum with the shortcut.

    The shift of the sign is the
    scheme's, `reactnet`.
    """

    @nn.compact
    def __call__(self, x, *, train: bool):
        # RSign is the scheme's, RPReLU the block's.
        y = self.normalized(x, train=train) + self.shortcut(x, train=train)
        return RPRelu(self.arithmetic, name="rprelu")(y)


class ReActNetBlock(TwoUnits):
    """Two of `ReActNetUnit`; the network's stem has no ReLU."""

    unit: ClassVar[type[Block]] = ReActNetUnit
