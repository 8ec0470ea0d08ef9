"""ReActNet-A (arXiv 2003.03488): a MobileNet of binary convolutions with shortcuts.

Each convolution has its shortcut. Code: github.com/liuzechun/ReActNet, folder
mobilenet.
"""

import dataclasses
import itertools

import flax.linen as nn
import jax.numpy as jnp

from bnas_jax.baselines.reactnet_block import RPRelu
from bnas_jax.baselines.units import Stem, check_image_size, convolution
from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.checks import positive
from bnas_jax.core.errors import UserError
from bnas_jax.core.modules import Classifier
from bnas_jax.core.networks import NetworkSettings
from bnas_jax.core.normalization import BatchNorm
from bnas_jax.core.schemes import Scheme

# ReActNet-A's channels: of the stem, then of each block.
WIDTHS = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)


class MobileBlock(nn.Module):
    """A 3x3 and a 1x1 convolution, each with its shortcut (Figure 5).

    (N, H, W, C) to (N, H / stride, W / stride, features); features are C or 2 C. Each
    convolution is sign -> convolution -> BN, added to the input -> RPReLU. The shortcut
    of a stride averages 2x2 pixels, the shortcut to a wider output has the input twice:
    no convolution of the block is float.
    """

    features: int
    stride: int
    scheme: Scheme
    arithmetic: Arithmetic

    @nn.compact
    def __call__(self, x, *, train: bool):
        # The 3x3 convolution, which keeps the channels: (N, H / stride, W / stride, C).
        channels = x.shape[-1]
        y = self._normalized(
            x, features=channels, kernel=3, stride=self.stride, train=train
        )
        if self.stride == 2:
            x = nn.avg_pool(x, (2, 2), strides=(2, 2))
        x = RPRelu(self.arithmetic, name="rprelu3")(x + y)

        # The 1x1 convolution, which keeps the size:
        # (N, H / stride, W / stride, features).
        y = self._normalized(x, features=self.features, kernel=1, stride=1, train=train)
        # Twice the input, in place of a convolution in the shortcut.
        if self.features == 2 * channels:
            x = jnp.concatenate([x, x], axis=-1)
        return RPRelu(self.arithmetic, name="rprelu1")(x + y)

    def _normalized(self, x, *, features: int, kernel: int, stride: int, train: bool):
        """sign -> convolution -> BN."""
        conv = convolution(
            features,
            kernel,
            self.scheme,
            arithmetic=self.arithmetic,
            stride=stride,
            activation=True,
            name=f"conv{kernel}",
        )
        return BatchNorm(self.arithmetic, name=f"bn{kernel}")(conv(x), train=train)


class MobileNet(nn.Module):
    """`apply(variables, images, train=False)`, NHWC images to logits (N, num_classes).

    widths: the channels of the stem and of each block. The stem halves the image, and
        so does a block with more channels than the one before it, but for the first
        block.
    """

    widths: tuple[int, ...]
    num_classes: int
    scheme: Scheme
    arithmetic: Arithmetic = Arithmetic()

    @nn.compact
    def __call__(self, images, *, train: bool = False):
        # A block that widens the network has a stride of 2, but for the first block.
        widths = self.widths[1:]
        strides = [1]
        for before, after in itertools.pairwise(widths):
            strides.append(2 if after > before else 1)
        check_image_size(images.shape, 1 + strides.count(2))

        # The first convolution: (N, H / 2, W / 2, widths[0]).
        stem = Stem(
            features=self.widths[0],
            kernel=3,
            stride=2,
            arithmetic=self.arithmetic,
            activation="none",
            name="stem",
        )
        x = stem(images.astype(self.arithmetic.dtype), train=train)

        # The blocks.
        for index, (width, stride) in enumerate(zip(widths, strides, strict=True)):
            block = MobileBlock(
                features=width,
                stride=stride,
                scheme=self.scheme,
                arithmetic=self.arithmetic,
                name=f"block{index}",
            )
            x = block(x, train=train)

        # The mean over the image, and a float linear layer: (N, num_classes).
        classifier = Classifier(
            num_classes=self.num_classes,
            arithmetic=self.arithmetic,
            name="classifier",
        )
        return classifier(x)


@dataclasses.dataclass(frozen=True)
class ReActNetMobileNet(NetworkSettings):
    """ReActNet's MobileNet for ImageNet: see `MobileNet`.

    widths: the channels of the stem and of each block. Each is the one before or twice
        as many.
    """

    widths: tuple[int, ...] = WIDTHS

    def __post_init__(self):
        positive("config.network", self, "widths")
        for before, after in itertools.pairwise(self.widths):
            if after not in (before, 2 * before):
                raise UserError(
                    "config.network.widths: each must be the one before or twice as "
                    "many, as shortcuts repeat their input; "
                    f"got {after} behind {before}"
                )

    def build(
        self, *, num_classes: int, scheme: Scheme, arithmetic: Arithmetic
    ) -> MobileNet:
        """A `MobileNet`."""
        return MobileNet(
            widths=self.widths,
            num_classes=num_classes,
            scheme=scheme,
            arithmetic=arithmetic,
        )
