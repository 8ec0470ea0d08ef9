"""DenseNet121 (arXiv 1608.06993), in kuangliu's form for CIFAR: new features come first in each concatenation.

Code: github.com/kuangliu/pytorch-cifar, models/densenet.py. Of its forms this one has the FLOPs of Table 6 (methods.md B).
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from bnas_jax.baselines.units import Baseline, Normalized, check_image_size, convolution
from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.modules import BatchNorm, Classifier, FloatConv
from bnas_jax.core.schemes import Scheme

# How much wider than its result the first convolution of a layer is.
BOTTLENECK = 4


class DenseLayer(nn.Module):
    """BN -> ReLU or sign -> 1x1 convolution, the same with 3x3, and the input behind the `growth` new channels."""

    growth: int
    scheme: Scheme
    arithmetic: Arithmetic

    @nn.compact
    def __call__(self, x, *, train: bool):
        common: dict[str, Any] = {"scheme": self.scheme, "arithmetic": self.arithmetic}
        y = Normalized(name="input", **common)(x, train=train)
        y = convolution(BOTTLENECK * self.growth, 1, activation=True, name="conv0", **common)(y)
        y = Normalized(name="middle", **common)(y, train=train)
        y = convolution(self.growth, 3, activation=True, name="conv1", **common)(y)
        return jnp.concatenate([y, x], axis=-1)


class Transition(nn.Module):
    """BN -> ReLU or sign -> 1x1 convolution to half the channels, and average pooling that halves the image."""

    scheme: Scheme
    arithmetic: Arithmetic

    @nn.compact
    def __call__(self, x, *, train: bool):
        common: dict[str, Any] = {"scheme": self.scheme, "arithmetic": self.arithmetic}
        y = Normalized(name="input", **common)(x, train=train)
        y = convolution(x.shape[-1] // 2, 1, activation=True, **common)(y)
        return nn.avg_pool(y, (2, 2), (2, 2))


class DenseNet(nn.Module):
    """`apply(variables, images, train=False)`, NHWC images to logits (N, num_classes). See `DenseNet121`."""

    growth: int
    blocks: tuple[int, ...]
    num_classes: int
    scheme: Scheme
    arithmetic: Arithmetic = Arithmetic()

    @nn.compact
    def __call__(self, images, *, train: bool = False):
        check_image_size(images.shape, len(self.blocks) - 1)
        common: dict[str, Any] = {"scheme": self.scheme, "arithmetic": self.arithmetic}
        x = images.astype(self.arithmetic.dtype)
        x = FloatConv(features=2 * self.growth, kernel=3, arithmetic=self.arithmetic, name="stem")(
            x
        )
        for stage, count in enumerate(self.blocks):
            if stage > 0:
                x = Transition(name=f"transition{stage - 1}", **common)(x, train=train)
            for index in range(count):
                x = DenseLayer(growth=self.growth, name=f"stage{stage}_layer{index}", **common)(
                    x, train=train
                )
        x = nn.relu(BatchNorm(self.arithmetic, name="bn")(x, train=train))
        return Classifier(
            num_classes=self.num_classes, arithmetic=self.arithmetic, name="classifier"
        )(x)


@dataclasses.dataclass(frozen=True)
class DenseNet121(Baseline):
    """DenseNet121. growth: the channels that each layer adds. blocks: layers of each stage."""

    growth: int = 32
    blocks: tuple[int, ...] = (6, 12, 24, 16)

    def __post_init__(self):
        self.check_at_least(1, "growth", "blocks")

    def build(self, *, num_classes: int, scheme: Scheme, arithmetic: Arithmetic) -> DenseNet:
        """A `DenseNet`."""
        return DenseNet(
            growth=self.growth,
            blocks=self.blocks,
            num_classes=num_classes,
            scheme=scheme,
            arithmetic=arithmetic,
        )
