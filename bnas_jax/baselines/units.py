"""The parts that the hand-crafted networks share.

These are a convolution with its batch norm and activation, the stem, and the places of
blocks in a residual network.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import flax.linen as nn

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.convolution import Convolution
from bnas_jax.core.errors import UserError
from bnas_jax.core.modules import FloatConv
from bnas_jax.core.normalization import BatchNorm
from bnas_jax.core.ops.geometry import square
from bnas_jax.core.schemes import Scheme
from bnas_jax.core.schemes.activations import activated


class BlockPlace(NamedTuple):
    """A block's place in a residual network.

    stage: the number of its stage, from 0.
    stride: its stride.
    name: the name of its module.
    """

    stage: int
    stride: int
    name: str


def block_places(blocks: Sequence[int]) -> Iterator[BlockPlace]:
    """The places of a residual network's blocks.

    The first block of every stage but the first halves the image.

    blocks: how many blocks each stage has.
    """
    for stage, count in enumerate(blocks):
        for index in range(count):
            stride = 1
            if stage > 0 and index == 0:
                stride = 2
            name = f"stage{stage}_block{index}"
            yield BlockPlace(stage=stage, stride=stride, name=name)


def doubling(width: int, *, stages: int) -> tuple[int, ...]:
    """The channels of each stage: `width` in the first, doubled in each further one."""
    return tuple(width * 2**stage for stage in range(stages))


def check_image_size(shape: tuple[int, ...], times: int) -> None:
    """Raises `UserError` unless images (N, H, W, C) can be halved `times` times."""
    steps = 2**times
    for size in shape[1:3]:
        if size % steps:
            # The next smaller size that fits.
            near = max(steps, size // steps * steps)
            raise UserError(
                f"images of {size} pixels cannot be halved {times} times, as this "
                "network does; give the network fewer stages, or, for a data set whose "
                "images are resized, set config.dataset.image_size to a multiple of "
                f"{steps}, for instance {near}"
            )


def convolution(
    features: int,
    kernel: int,
    scheme: Scheme,
    *,
    arithmetic: Arithmetic,
    stride: int = 1,
    groups: int = 1,
    binary: bool = True,
    activation: bool = False,
    bias: bool = False,
    name: str = "conv",
) -> Convolution:
    """The scheme's convolution with a square kernel.

    (N, H, W, C) to (N, H / stride, W / stride, features), rounded up.

    binary: False keeps it float.
    activation: whether the scheme's activation follows a binary convolution. A float
        network has its ReLU after the batch norm.
    """
    # If the convolution is float, the network applies its ReLU after the BN.
    activates = activation and binary and scheme.binary
    return Convolution(
        features=features,
        kernel=(kernel, kernel),
        geometry=square(kernel, stride=stride, groups=groups),
        scheme=scheme,
        arithmetic=arithmetic,
        binary_weights=binary,
        binary_input=binary,
        activation=activates,
        bias=bias,
        name=name,
    )


class ConvUnit(nn.Module):
    """A convolution with its batch norm and activation.

    (N, H, W, C) to (N, H / stride, W / stride, features), rounded up. Where the scheme
    binarizes, it is BN -> sign -> convolution -> the scheme's activation; under the
    scheme `float`, convolution -> BN -> ReLU.

    activation: False leaves out the last step of either order.
    """

    features: int
    kernel: int
    scheme: Scheme
    arithmetic: Arithmetic
    stride: int = 1
    groups: int = 1
    activation: bool = True

    @nn.compact
    def __call__(self, x, *, train: bool):
        conv = convolution(
            self.features,
            self.kernel,
            self.scheme,
            arithmetic=self.arithmetic,
            stride=self.stride,
            groups=self.groups,
            activation=self.activation,
        )
        # BN -> sign -> convolution -> activation.
        if self.scheme.binary:
            normal = BatchNorm(self.arithmetic, name="bn")(x, train=train)
            return conv(normal)

        # Convolution -> BN -> ReLU. The BN is not named `bn`, as it normalises another
        # tensor: `train --init` copies parameters by their names.
        y = BatchNorm(self.arithmetic, name="output_bn")(conv(x), train=train)
        if self.activation:
            y = nn.relu(y)
        return y


class Normalized(nn.Module):
    """BN -> ReLU before a convolution, in a pre-activation block.

    Under a binary scheme it is only BN: the sign follows in place of the ReLU.
    """

    scheme: Scheme
    arithmetic: Arithmetic

    @nn.compact
    def __call__(self, x, *, train: bool):
        y = BatchNorm(self.arithmetic, name="bn")(x, train=train)
        # The sign of a ReLU's output would be 1 everywhere.
        if self.scheme.binary:
            return y
        return nn.relu(y)


class Stem(nn.Module):
    """The first convolution -> BN -> activation, float in every scheme.

    Images (N, H, W, C) to (N, H / stride, W / stride, features), rounded up.

    activation: one of `activations.ACTIVATIONS`.
    """

    features: int
    kernel: int
    arithmetic: Arithmetic
    stride: int = 1
    activation: str = "relu"

    @nn.compact
    def __call__(self, images, *, train: bool):
        conv = FloatConv(
            features=self.features,
            kernel=self.kernel,
            stride=self.stride,
            arithmetic=self.arithmetic,
            name="conv",
        )
        x = BatchNorm(self.arithmetic, name="bn")(conv(images), train=train)
        return activated(x, self.activation, arithmetic=self.arithmetic)
