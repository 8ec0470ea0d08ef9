"""SENet18 (arXiv 1709.01507), in kuangliu's form for CIFAR.

It has pre-activation blocks with a gate for each channel. The gate's convolutions stay
float, as each has one pixel. Code: github.com/kuangliu/pytorch-cifar, models/senet.py.
"""

import dataclasses

import flax.linen as nn

from bnas_jax.baselines.preact_block import PreactBlock
from bnas_jax.baselines.units import (
    Stem,
    block_places,
    check_image_size,
    doubling,
)
from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.checks import positive
from bnas_jax.core.errors import UserError
from bnas_jax.core.modules import Classifier
from bnas_jax.core.networks import NetworkSettings
from bnas_jax.core.schemes import Scheme


class SENet(nn.Module):
    """`apply(variables, images, train=False)`, NHWC images to logits (N, num_classes).

    See `SENet18`.
    """

    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    gate: int
    num_classes: int
    scheme: Scheme
    arithmetic: Arithmetic = Arithmetic()
    float_shortcut: bool = True

    @nn.compact
    def __call__(self, images, *, train: bool = False):
        # Each stage but the first halves the image.
        check_image_size(images.shape, len(self.blocks) - 1)

        # The first convolution, float: (N, H, W, widths[0]).
        images = images.astype(self.arithmetic.dtype)
        stem = Stem(
            features=self.widths[0], kernel=3, arithmetic=self.arithmetic, name="stem"
        )
        x = stem(images, train=train)

        # The stages.
        for place in block_places(self.blocks):
            block = PreactBlock(
                features=self.widths[place.stage],
                stride=place.stride,
                scheme=self.scheme,
                arithmetic=self.arithmetic,
                float_shortcut=self.float_shortcut,
                gate=self.gate,  # the difference to a pre-activation ResNet
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
class SENet18(NetworkSettings):
    """SENet18.

    width: the channels of the first stage; each further stage doubles them.
    blocks: how many blocks each stage has.
    gate: how many times narrower than its block the squeeze is, a divisor of the width.
    float_shortcut: whether the convolutions of the shortcuts stay float.
    """

    width: int = 64
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    gate: int = 16
    float_shortcut: bool = True

    def __post_init__(self):
        positive("config.network", self, "width", "blocks", "gate")
        # A gate that divides the first width divides the doubled widths, too.
        if self.width % self.gate:
            raise UserError(
                "config.network.width must be a multiple of config.network.gate, for "
                f"instance {self.gate}; got {self.width} and {self.gate}"
            )

    def build(
        self, *, num_classes: int, scheme: Scheme, arithmetic: Arithmetic
    ) -> SENet:
        """A `SENet`."""
        return SENet(
            blocks=self.blocks,
            widths=doubling(self.width, stages=len(self.blocks)),
            gate=self.gate,
            num_classes=num_classes,
            scheme=scheme,
            arithmetic=arithmetic,
            float_shortcut=self.float_shortcut,
        )
