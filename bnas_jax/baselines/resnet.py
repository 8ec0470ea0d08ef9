"""ResNets (arXiv 1512.03385): in kuangliu's form for CIFAR, and the one for ImageNet.

Code: github.com/kuangliu/pytorch-cifar (CIFAR). The block, its shortcut and the
activation of the stem are those of the papers on binarization: see `blocks`. As in
Bi-Real Net's code, there is no batch norm after the last block.
"""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn

from bnas_jax.baselines.blocks import BLOCKS
from bnas_jax.baselines.units import (
    Stem,
    block_places,
    check_image_size,
    doubling,
)
from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.checks import choice, positive
from bnas_jax.core.modules import Classifier
from bnas_jax.core.networks import NetworkSettings
from bnas_jax.core.ops.pool import max_pool
from bnas_jax.core.schemes import Scheme


class ResNet(nn.Module):
    """`apply(variables, images, train=False)`, NHWC images to logits (N, num_classes).

    All stages but the first halve the image.

    blocks: how many blocks each stage has.
    widths: the output channels of each stage.
    block: one of `BLOCKS`; None is the scheme's usual block.
    float_shortcut: whether the convolutions of the shortcuts stay float.
    imagenet: whether the stem quarters the image.
    """

    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    num_classes: int
    scheme: Scheme
    arithmetic: Arithmetic = Arithmetic()
    block: str | None = None
    float_shortcut: bool = True
    imagenet: bool = False

    @nn.compact
    def __call__(self, images, *, train: bool = False):
        kind = BLOCKS[self.block or self.scheme.block]

        # Each stage but the first halves the image, ImageNet's stem does so twice.
        halvings = len(self.blocks) - 1
        if self.imagenet:
            halvings += 2
        check_image_size(images.shape, halvings)

        # The first convolution, which is float, with the activation that the block's
        # paper has there.
        images = images.astype(self.arithmetic.dtype)
        x = self._stem(images, activation=kind.stem_activation, train=train)

        # The stages.
        for place in block_places(self.blocks):
            block = kind(
                features=self.widths[place.stage],
                stride=place.stride,
                scheme=self.scheme,
                arithmetic=self.arithmetic,
                float_shortcut=self.float_shortcut,
                name=place.name,
            )
            x = block(x, train=train)

        # The mean over the image, and a float linear layer: (N, num_classes).
        classifier = Classifier(
            num_classes=self.num_classes,
            arithmetic=self.arithmetic,
            name="classifier",
        )
        return classifier(x)

    def _stem(self, images, *, activation: str, train: bool):
        """(N, H, W, widths[0]); for ImageNet (N, H / 4, W / 4, widths[0])."""
        common: dict[str, Any] = {
            "features": self.widths[0],
            "arithmetic": self.arithmetic,
            "activation": activation,
        }
        # CIFAR: 3x3 at the size of the image.
        if not self.imagenet:
            stem = Stem(kernel=3, name="stem", **common)
            return stem(images, train=train)

        # ImageNet: 7x7 at stride 2, and a max pooling.
        stem = Stem(kernel=7, stride=2, name="stem", **common)
        x = stem(images, train=train)  # (N, H / 2, W / 2, widths[0])
        return max_pool(x, stride=2)


@dataclasses.dataclass(frozen=True)
class ResNet18(NetworkSettings):
    """ResNet18.

    width: the channels of the first stage; each further stage doubles them.
    blocks: how many blocks each stage has.
    block: one of `blocks.BLOCKS`; None is the scheme's usual block.
    float_shortcut: whether the convolutions of the shortcuts stay float. None is True
        on CIFAR, as only that gives the FLOPs of Table 6; on ImageNet it is as in the
        paper of the scheme, `Scheme.float_shortcut` (docs/networks.md).
    """

    width: int = 64
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    block: str | None = None
    float_shortcut: bool | None = None

    imagenet: ClassVar[bool] = False

    def __post_init__(self):
        positive("config.network", self, "width", "blocks")
        if self.block is not None:
            choice("config.network.block", self.block, choices=BLOCKS)

    def build(
        self, *, num_classes: int, scheme: Scheme, arithmetic: Arithmetic
    ) -> ResNet:
        """A `ResNet`."""
        # By default CIFAR's shortcuts are float whatever the scheme.
        float_shortcut = self.float_shortcut
        if float_shortcut is None:
            float_shortcut = not self.imagenet or scheme.float_shortcut
        return ResNet(
            blocks=self.blocks,
            widths=doubling(self.width, stages=len(self.blocks)),
            num_classes=num_classes,
            scheme=scheme,
            arithmetic=arithmetic,
            block=self.block,
            float_shortcut=float_shortcut,
            imagenet=self.imagenet,
        )


@dataclasses.dataclass(frozen=True)
class ResNet34(ResNet18):
    """ResNet34: see `ResNet18`."""

    blocks: tuple[int, ...] = (3, 4, 6, 3)


@dataclasses.dataclass(frozen=True)
class ImageNetResNet18(ResNet18):
    """ResNet18 for ImageNet: see `ResNet18`.

    Its stem is a 7x7 convolution of stride 2 and a max-pooling.
    """

    imagenet: ClassVar[bool] = True
