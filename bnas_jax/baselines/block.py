"""`Block`: the base of the blocks of a ResNet, and the shortcut that most share."""

from typing import ClassVar

import flax.linen as nn

from bnas_jax.baselines.units import ConvUnit
from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.modules import FloatConv
from bnas_jax.core.normalization import BatchNorm
from bnas_jax.core.schemes import Scheme


class Block(nn.Module):
    """The base of all entries of `blocks.BLOCKS`: called as `block(x, train=train)`.

    A block is two 3x3 convolutions and their shortcuts, (N, H, W, C) to (N, H / stride,
    W / stride, features). If a paper's block is a single convolution with its shortcut,
    as in Bi-Real Net, a block here is two blocks of the paper.

    features: the channels of the output.
    float_shortcut: whether the convolution of a shortcut that changes the shape stays
        float.
    """

    features: int
    stride: int
    scheme: Scheme
    arithmetic: Arithmetic
    float_shortcut: bool = True

    # The activation after the BN of the stem in a network of such blocks, one of
    # `activations.ACTIVATIONS`.
    stem_activation: ClassVar[str] = "relu"

    def changes_shape(self, x) -> bool:
        """Whether the shortcut of x, (N, H, W, C), cannot be x itself."""
        return self.stride != 1 or x.shape[-1] != self.features


class Projection(nn.Module):
    """A shortcut that changes the shape, by a float or a binary 1x1 convolution.

    (N, H, W, C) to (N, H / stride, W / stride, features). The float form is 1x1
    convolution -> BN, the binary form BN -> sign -> 1x1 convolution.

    float_conv: True takes the float form, as the scheme `float` always does.
    """

    features: int
    stride: int
    scheme: Scheme
    arithmetic: Arithmetic
    float_conv: bool

    @nn.compact
    def __call__(self, x, *, train: bool):
        # The binary form, without an activation: a shortcut adds values of both signs.
        if self.scheme.binary and not self.float_conv:
            unit = ConvUnit(
                features=self.features,
                kernel=1,
                stride=self.stride,
                scheme=self.scheme,
                arithmetic=self.arithmetic,
                activation=False,
                name="unit",
            )
            return unit(x, train=train)

        # The float form.
        conv = FloatConv(
            features=self.features,
            kernel=1,
            stride=self.stride,
            arithmetic=self.arithmetic,
            name="conv",
        )
        return BatchNorm(self.arithmetic, name="bn")(conv(x), train=train)
