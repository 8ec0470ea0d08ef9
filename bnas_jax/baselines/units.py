"""What the hand-crafted networks are made of: a convolution with its batch norm and activation, and the stem."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import ClassVar, NamedTuple

import flax.linen as nn

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.errors import UserError
from bnas_jax.core.modules import BatchNorm, Convolution, FloatConv, PRelu
from bnas_jax.core.networks import NetworkSettings
from bnas_jax.core.ops.conv import square
from bnas_jax.core.schemes import Scheme
from bnas_jax.core.schemes.scheme import ACTIVATIONS


@dataclasses.dataclass(frozen=True)
class Baseline(NetworkSettings):
    """The base of the hand-crafted networks' settings."""

    drops_paths: ClassVar[bool] = False

    def check_at_least(self, least: int, *names: str) -> None:
        """`UserError` for a setting of those names, a number or several, that is smaller."""
        for name in names:
            value = getattr(self, name)
            numbers = value if isinstance(value, tuple) else (value,)
            if not numbers or min(numbers) < least:
                raise UserError(f"config.network.{name} must be at least {least}, got {value}")


class BlockPlace(NamedTuple):
    """Where a block stands: its stage, from 0, its stride, and the name of its module."""

    stage: int
    stride: int
    name: str


def block_places(blocks: Sequence[int]) -> Iterator[BlockPlace]:
    """The places of a residual network's blocks; the first block of every stage but the first halves the image.

    blocks: how many each stage has.
    """
    for stage, count in enumerate(blocks):
        for index in range(count):
            halves = stage > 0 and index == 0
            yield BlockPlace(stage, 2 if halves else 1, f"stage{stage}_block{index}")


def check_image_size(shape: tuple[int, ...], times: int) -> None:
    """`UserError` unless images (N, H, W, C) can be halved so many times."""
    steps = 2**times
    for size in shape[1:3]:
        if size % steps:
            near = max(steps, size // steps * steps)
            raise UserError(
                f"images of {size} pixels cannot be halved {times} times, as this network does; "
                f"set config.dataset.image_size to a multiple of {steps}, for instance {near}"
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
    """The scheme's convolution; `binary=False` keeps it float.

    activation: the scheme's, where it binarizes. A float network's comes after its batch norm.
    """
    return Convolution(
        features=features,
        kernel=(kernel, kernel),
        geometry=square(kernel, stride=stride, groups=groups),
        scheme=scheme,
        arithmetic=arithmetic,
        binary_weights=binary,
        binary_input=binary,
        activation=activation and binary and scheme.binary,
        bias=bias,
        name=name,
    )


class ConvUnit(nn.Module):
    """Convolution -> BN -> ReLU where the scheme is float; where it binarizes BN -> sign -> convolution -> its activation.

    activation: False leaves the last step of both orders out.
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
        if self.scheme.binary:
            return conv(BatchNorm(self.arithmetic, name="bn")(x, train=train))
        # Another name in another place: what it learned is of no use there (`train --init`).
        y = BatchNorm(self.arithmetic, name="output_bn")(conv(x), train=train)
        return nn.relu(y) if self.activation else y


class Normalized(nn.Module):
    """BN -> ReLU, what a pre-activation block puts before a convolution; BN alone where a sign takes the ReLU's place."""

    scheme: Scheme
    arithmetic: Arithmetic

    @nn.compact
    def __call__(self, x, *, train: bool):
        y = BatchNorm(self.arithmetic, name="bn")(x, train=train)
        return y if self.scheme.binary else nn.relu(y)


class Stem(nn.Module):
    """The first convolution, which is float in every scheme -> BN -> activation, one of `scheme.ACTIVATIONS`."""

    features: int
    kernel: int
    arithmetic: Arithmetic
    stride: int = 1
    activation: str = "relu"

    @nn.compact
    def __call__(self, images, *, train: bool):
        x = FloatConv(
            features=self.features,
            kernel=self.kernel,
            stride=self.stride,
            arithmetic=self.arithmetic,
            name="conv",
        )(images)
        x = BatchNorm(self.arithmetic, name="bn")(x, train=train)
        if self.activation == "prelu":
            return PRelu(self.arithmetic, name="prelu")(x)
        return ACTIVATIONS[self.activation](x)
