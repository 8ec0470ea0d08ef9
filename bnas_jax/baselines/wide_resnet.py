"""Wide ResNets (arXiv 1605.07146): WRN-40-4, and PCNN's WRN22 of widths (i, i, 2i, 4i).

There are two published implementations. github.com/xternalz/WideResNet-pytorch, the
default, is as the Torch code of the paper. github.com/meliketoy/wide-resnet.pytorch has
biases, the stride in the second convolution of a block, shortcuts from the block's
input, and statistics of the last batch norm that follow the batch faster.

PCNN's paper prints no FLOPs of WRN22; those of Table 6, 0.04e8 and 0.27e8 for i = 16
and 64, remain unexplained: `core.cost` gives 0.013e8 and 0.160e8.
"""

import dataclasses
from typing import Any

import flax.linen as nn

from bnas_jax.baselines.preact_block import PreactBlock
from bnas_jax.baselines.units import (
    block_places,
    check_image_size,
    convolution,
    doubling,
)
from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.checks import choice, positive
from bnas_jax.core.modules import Classifier
from bnas_jax.core.networks import NetworkSettings
from bnas_jax.core.normalization import BatchNorm
from bnas_jax.core.ops.batch_norm import MOMENTUM
from bnas_jax.core.schemes import Scheme

CODES = ("xternalz", "meliketoy")
# The momentum of the last batch norm in meliketoy's code: the share of the old value
# that is kept. PyTorch's `momentum` is 1 minus it.
FAST_MOMENTUM = 0.1


class WideResNet(nn.Module):
    """`apply(variables, images, train=False)`, NHWC images to logits (N, num_classes).

    See `Wrn40`.

    stem: the channels of the first convolution.
    meliketoy: whether it has the form of that code.
    """

    stem: int
    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    num_classes: int
    scheme: Scheme
    arithmetic: Arithmetic = Arithmetic()
    float_shortcut: bool = True
    meliketoy: bool = False

    @nn.compact
    def __call__(self, images, *, train: bool = False):
        # Each stage but the first halves the image.
        check_image_size(images.shape, len(self.blocks) - 1)
        common: dict[str, Any] = {"scheme": self.scheme, "arithmetic": self.arithmetic}

        # The first convolution, float and without a BN: (N, H, W, stem).
        x = images.astype(self.arithmetic.dtype)
        stem = convolution(
            self.stem,
            kernel=3,
            binary=False,
            bias=self.meliketoy,
            name="stem",
            **common,
        )
        x = stem(x)

        # The stages.
        for place in block_places(self.blocks):
            block = PreactBlock(
                features=self.widths[place.stage],
                stride=place.stride,
                float_shortcut=self.float_shortcut,
                late_stride=self.meliketoy,
                **common,
                name=place.name,
            )
            x = block(x, train=train)

        # The last BN and ReLU, as blocks begin with theirs.
        momentum = FAST_MOMENTUM if self.meliketoy else MOMENTUM
        norm = BatchNorm(self.arithmetic, momentum=momentum, name="bn")
        x = nn.relu(norm(x, train=train))

        # The mean over the image, and a float linear layer: (N, num_classes).
        classifier = Classifier(
            num_classes=self.num_classes,
            arithmetic=self.arithmetic,
            name="classifier",
        )
        return classifier(x)


@dataclasses.dataclass(frozen=True)
class Wrn40(NetworkSettings):
    """WRN-40-4.

    stem: the channels of the first convolution; None is `width`.
    width: the channels of the first stage; each further stage doubles them.
    blocks: how many blocks each stage has.
    code: which published form, `xternalz` or `meliketoy`.
    float_shortcut: whether the convolutions of the shortcuts stay float.
    """

    stem: int | None = 16
    width: int = 64
    blocks: tuple[int, ...] = (6, 6, 6)
    code: str = "xternalz"
    float_shortcut: bool = True

    def __post_init__(self):
        positive("config.network", self, "width", "blocks")
        # In a config, None stands for the default, which need not be None.
        if self.stem is None and type(self).stem is not None:
            object.__setattr__(self, "stem", self.width)
        if self.stem is not None:
            positive("config.network", self, "stem")
        choice("config.network.code", self.code, choices=CODES)

    def build(
        self, *, num_classes: int, scheme: Scheme, arithmetic: Arithmetic
    ) -> WideResNet:
        """A `WideResNet`."""
        # PCNN's WRN22 begins with the width of its first stage.
        stem = self.stem
        if stem is None:
            stem = self.width
        return WideResNet(
            stem=stem,
            blocks=self.blocks,
            widths=doubling(self.width, stages=len(self.blocks)),
            num_classes=num_classes,
            scheme=scheme,
            arithmetic=arithmetic,
            float_shortcut=self.float_shortcut,
            meliketoy=self.code == "meliketoy",
        )


@dataclasses.dataclass(frozen=True)
class Wrn22(Wrn40):
    """WRN22 of the widths (i, i, 2i, 4i), i being `width`: see `Wrn40`."""

    stem: int | None = None
    width: int = 16
    blocks: tuple[int, ...] = (3, 3, 3)
