"""DenseNet121 (arXiv 1608.06993), in kuangliu's form for CIFAR.

In each concatenation, the new channels come first. Code:
github.com/kuangliu/pytorch-cifar, models/densenet.py. Of its DenseNets, DenseNet121 has
the FLOPs of Table 6 (docs/networks.md).
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from bnas_jax.baselines.units import Normalized, check_image_size, convolution
from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.checks import positive
from bnas_jax.core.modules import Classifier, FloatConv
from bnas_jax.core.networks import NetworkSettings
from bnas_jax.core.normalization import BatchNorm
from bnas_jax.core.schemes import Scheme

# The width of the first convolution of a layer, relative to `growth`.
BOTTLENECK = 4


class DenseLayer(nn.Module):
    """The `growth` channels of two convolutions, concatenated with the input.

    (N, H, W, C) to (N, H, W, growth + C). The convolutions are BN -> ReLU or sign ->
    1x1 convolution, then the same with a 3x3 convolution.
    """

    growth: int
    scheme: Scheme
    arithmetic: Arithmetic

    @nn.compact
    def __call__(self, x, *, train: bool):
        common: dict[str, Any] = {"scheme": self.scheme, "arithmetic": self.arithmetic}
        wide = BOTTLENECK * self.growth

        # To the bottleneck: (N, H, W, 4 * growth).
        y = Normalized(name="input", **common)(x, train=train)
        conv0 = convolution(wide, kernel=1, activation=True, name="conv0", **common)
        y = conv0(y)

        # To the new channels: (N, H, W, growth).
        y = Normalized(name="middle", **common)(y, train=train)
        conv1 = convolution(
            self.growth, kernel=3, activation=True, name="conv1", **common
        )
        y = conv1(y)
        return jnp.concatenate([y, x], axis=-1)


class Transition(nn.Module):
    """A convolution to half the channels, and average pooling.

    (N, H, W, C) to (N, H / 2, W / 2, C / 2). It is BN -> ReLU or sign -> 1x1
    convolution -> pooling.
    """

    scheme: Scheme
    arithmetic: Arithmetic

    @nn.compact
    def __call__(self, x, *, train: bool):
        common: dict[str, Any] = {"scheme": self.scheme, "arithmetic": self.arithmetic}
        y = Normalized(name="input", **common)(x, train=train)
        conv = convolution(x.shape[-1] // 2, kernel=1, activation=True, **common)
        y = conv(y)  # (N, H, W, C / 2)
        return nn.avg_pool(y, (2, 2), strides=(2, 2))


class DenseNet(nn.Module):
    """`apply(variables, images, train=False)`, NHWC images to logits (N, num_classes).

    See `DenseNet121`.
    """

    growth: int
    blocks: tuple[int, ...]
    num_classes: int
    scheme: Scheme
    arithmetic: Arithmetic = Arithmetic()

    @nn.compact
    def __call__(self, images, *, train: bool = False):
        # Each transition halves the image.
        check_image_size(images.shape, len(self.blocks) - 1)
        common: dict[str, Any] = {"scheme": self.scheme, "arithmetic": self.arithmetic}

        # The first convolution, float and without a BN: (N, H, W, 2 * growth).
        stem = FloatConv(
            features=2 * self.growth,
            kernel=3,
            arithmetic=self.arithmetic,
            name="stem",
        )
        x = stem(images.astype(self.arithmetic.dtype))

        # The stages, each but the first at half the size of the one before.
        for stage, count in enumerate(self.blocks):
            if stage > 0:
                transition = Transition(name=f"transition{stage - 1}", **common)
                x = transition(x, train=train)
            for index in range(count):
                name = f"stage{stage}_layer{index}"
                layer = DenseLayer(growth=self.growth, name=name, **common)
                x = layer(x, train=train)

        # The last BN and ReLU, as layers begin with theirs.
        x = nn.relu(BatchNorm(self.arithmetic, name="bn")(x, train=train))

        # The mean over the image, and a float linear layer: (N, num_classes).
        classifier = Classifier(
            num_classes=self.num_classes,
            arithmetic=self.arithmetic,
            name="classifier",
        )
        return classifier(x)


@dataclasses.dataclass(frozen=True)
class DenseNet121(NetworkSettings):
    """DenseNet121.

    growth: the channels that each layer adds.
    blocks: how many layers each stage has.
    """

    growth: int = 32
    blocks: tuple[int, ...] = (6, 12, 24, 16)

    def __post_init__(self):
        positive("config.network", self, "growth", "blocks")

    def build(
        self, *, num_classes: int, scheme: Scheme, arithmetic: Arithmetic
    ) -> DenseNet:
        """A `DenseNet`."""
        return DenseNet(
            growth=self.growth,
            blocks=self.blocks,
            num_classes=num_classes,
            scheme=scheme,
            arithmetic=arithmetic,
        )
