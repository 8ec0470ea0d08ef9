"""PCNN's block (arXiv 1811.12755): a shortcut around each convolution, and a PReLU behind it."""

from typing import Any, ClassVar

import flax.linen as nn

from bnas_jax.baselines.bireal_block import TwoUnits
from bnas_jax.baselines.block import Block
from bnas_jax.baselines.units import ConvUnit
from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.modules import BatchNorm, FloatConv, PRelu
from bnas_jax.core.schemes import Scheme


class PcnnUnit(Block):
    """BN -> sign -> 3x3 convolution, added to the shortcut, and a PReLU behind the sum.

    How sure: agrees with the published test code of PCNN's authors, and with the training code of CBCN's.
    """

    @nn.compact
    def __call__(self, x, *, train: bool):
        common: dict[str, Any] = {
            "features": self.features,
            "stride": self.stride,
            "scheme": self.scheme,
            "arithmetic": self.arithmetic,
        }
        y = ConvUnit(kernel=3, activation=False, name="unit", **common)(x, train=train)
        if self.changes_shape(x):
            x = AveragedProjection(float_conv=self.float_shortcut, name="shortcut", **common)(
                x, train=train
            )
        return PRelu(self.arithmetic, name="prelu")(x + y)


class PcnnBlock(TwoUnits):
    """Two of `PcnnUnit`; the network's stem has a PReLU."""

    unit: ClassVar[type[Block]] = PcnnUnit
    stem_activation: ClassVar[str] = "prelu"


class AveragedProjection(nn.Module):
    """A shortcut that changes the shape: 1x1 convolution of stride 1 -> BN -> average over what the stride joins.

    float_conv: False makes the convolution binary, BN -> sign -> convolution -> average.
    """

    features: int
    stride: int
    scheme: Scheme
    arithmetic: Arithmetic
    float_conv: bool

    @nn.compact
    def __call__(self, x, *, train: bool):
        if self.scheme.binary and not self.float_conv:
            x = ConvUnit(
                features=self.features,
                kernel=1,
                scheme=self.scheme,
                arithmetic=self.arithmetic,
                activation=False,
                name="unit",
            )(x, train=train)
        else:
            x = FloatConv(
                features=self.features, kernel=1, arithmetic=self.arithmetic, name="conv"
            )(x)
            x = BatchNorm(self.arithmetic, name="bn")(x, train=train)
        if self.stride == 1:
            return x
        window = (self.stride, self.stride)
        return nn.avg_pool(x, window, window)
