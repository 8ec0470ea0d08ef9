"""ResNeXt29 (arXiv 1611.05431), in kuangliu's form for CIFAR.

Its first convolution is 1x1. Code: github.com/kuangliu/pytorch-cifar,
models/resnext.py. By default 2x64d, the form with the FLOPs of Table 6.
"""

import dataclasses
from typing import Any

import flax.linen as nn

from bnas_jax.baselines.block import Projection
from bnas_jax.baselines.units import (
    ConvUnit,
    Stem,
    block_places,
    check_image_size,
)
from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.checks import positive
from bnas_jax.core.modules import Classifier
from bnas_jax.core.networks import NetworkSettings
from bnas_jax.core.schemes import Scheme

# The width of a block's output, relative to that of its 3x3 convolution.
EXPANSION = 2


class GroupedBlock(nn.Module):
    """Three convolutions, the second in groups, and a shortcut around them.

    (N, H, W, C) to (N, H / stride, W / stride, 2 * width). The convolutions are 1x1 to
    `width`, 3x3 in groups, and 1x1 to 2 * width. The scheme's activation does not
    follow the last one; under the scheme `float` a ReLU follows the sum.
    """

    width: int
    groups: int
    stride: int
    scheme: Scheme
    arithmetic: Arithmetic
    float_shortcut: bool

    @nn.compact
    def __call__(self, x, *, train: bool):
        features = EXPANSION * self.width
        common: dict[str, Any] = {"scheme": self.scheme, "arithmetic": self.arithmetic}

        # The three convolutions.
        first = ConvUnit(features=self.width, kernel=1, name="unit0", **common)
        grouped = ConvUnit(
            features=self.width,
            kernel=3,
            stride=self.stride,
            groups=self.groups,
            name="unit1",
            **common,
        )
        last = ConvUnit(
            features=features, kernel=1, activation=False, name="unit2", **common
        )
        y = first(x, train=train)  # (N, H, W, width)
        y = grouped(y, train=train)  # (N, H / stride, W / stride, width)
        y = last(y, train=train)  # (N, H / stride, W / stride, 2 * width)

        # The shortcut.
        if self.stride != 1 or x.shape[-1] != features:
            projection = Projection(
                features=features,
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


class ResNeXt(nn.Module):
    """`apply(variables, images, train=False)`, NHWC images to logits (N, num_classes).

    See `ResNeXt29`.
    """

    stem: int
    groups: int
    group_width: int
    blocks: tuple[int, ...]
    num_classes: int
    scheme: Scheme
    arithmetic: Arithmetic = Arithmetic()
    float_shortcut: bool = True

    @nn.compact
    def __call__(self, images, *, train: bool = False):
        # Each stage but the first halves the image.
        check_image_size(images.shape, len(self.blocks) - 1)

        # The first convolution, float: (N, H, W, stem).
        images = images.astype(self.arithmetic.dtype)
        stem = Stem(
            features=self.stem, kernel=1, arithmetic=self.arithmetic, name="stem"
        )
        x = stem(images, train=train)

        # The stages, each twice as wide as the one before.
        for place in block_places(self.blocks):
            block = GroupedBlock(
                width=self.groups * self.group_width * 2**place.stage,
                groups=self.groups,
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


@dataclasses.dataclass(frozen=True)
class ResNeXt29(NetworkSettings):
    """ResNeXt29.

    stem: the channels of the first convolution.
    groups, group_width: of the first stage's 3x3 convolutions, 2x64d; each further
        stage doubles the width.
    blocks: how many blocks each stage has.
    float_shortcut: whether the convolutions of the shortcuts stay float.
    """

    stem: int = 64
    groups: int = 2
    group_width: int = 64
    blocks: tuple[int, ...] = (3, 3, 3)
    float_shortcut: bool = True

    def __post_init__(self):
        positive("config.network", self, "stem", "groups", "group_width", "blocks")

    def build(
        self, *, num_classes: int, scheme: Scheme, arithmetic: Arithmetic
    ) -> ResNeXt:
        """A `ResNeXt`."""
        return ResNeXt(
            stem=self.stem,
            groups=self.groups,
            group_width=self.group_width,
            blocks=self.blocks,
            num_classes=num_classes,
            scheme=scheme,
            arithmetic=arithmetic,
            float_shortcut=self.float_shortcut,
        )
