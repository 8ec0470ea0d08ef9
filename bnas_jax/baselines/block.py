"""What a block of a ResNet is: `Block`, and the shortcut that most of them share."""

from typing import ClassVar

import flax.linen as nn

from bnas_jax.baselines.units import ConvUnit
from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.modules import BatchNorm, FloatConv
from bnas_jax.core.schemes import Scheme


class Block(nn.Module):
    """The base of all entries of `blocks.BLOCKS`: two 3x3 convolutions and their shortcuts, `block(x, train=train)`.

    (N, H, W, C) to (N, H / stride, W / stride, features). Papers whose block has a single convolution and a shortcut of its
    own, as Bi-Real's, have two of those in one block here. float_shortcut: whether the convolution of a shortcut that changes
    the shape stays float.
    """

    features: int
    stride: int
    scheme: Scheme
    arithmetic: Arithmetic
    float_shortcut: bool = True

    # What follows the BN of the stem of a network of such blocks, one of `scheme.ACTIVATIONS`.
    stem_activation: ClassVar[str] = "relu"

    def changes_shape(self, x) -> bool:
        """Whether the shortcut cannot be the input itself."""
        return self.stride != 1 or x.shape[-1] != self.features


class Projection(nn.Module):
    """A shortcut that changes the shape: float 1x1 convolution -> BN, or a binary one, BN -> sign -> 1x1 convolution."""

    features: int
    stride: int
    scheme: Scheme
    arithmetic: Arithmetic
    float_conv: bool

    @nn.compact
    def __call__(self, x, *, train: bool):
        if self.scheme.binary and not self.float_conv:
            return ConvUnit(
                features=self.features,
                kernel=1,
                stride=self.stride,
                scheme=self.scheme,
                arithmetic=self.arithmetic,
                activation=False,
                name="unit",
            )(x, train=train)
        x = FloatConv(
            features=self.features,
            kernel=1,
            stride=self.stride,
            arithmetic=self.arithmetic,
            name="conv",
        )(x)
        return BatchNorm(self.arithmetic, name="bn")(x, train=train)
