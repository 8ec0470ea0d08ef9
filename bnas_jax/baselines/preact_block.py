"""The pre-activation block (arXiv 1603.05027) of SENet18 and of wide ResNets."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from bnas_jax.baselines.block import Block
from bnas_jax.baselines.units import Normalized, convolution
from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.schemes import Scheme


class PreactBlock(Block):
    """BN -> ReLU -> convolution twice, and a shortcut around both.

    In a binary scheme a sign replaces the ReLU. A shortcut that changes the shape reads
    the input of the first convolution; a float shortcut under a binary scheme reads it
    before the sign. The scheme's activation follows only the first convolution.

    gate: how many times narrower than the block the squeeze of SENet (arXiv 1709.01507)
        is; None is no gate.
    late_stride: meliketoy's form. The second convolution has the stride, shortcuts read
        the block's input, and all convolutions have biases.
    """

    gate: int | None = None
    late_stride: bool = False

    @nn.compact
    def __call__(self, x, *, train: bool):
        common: dict[str, Any] = {"scheme": self.scheme, "arithmetic": self.arithmetic}
        shared = {**common, "features": self.features, "bias": self.late_stride}

        # The strides of the two convolutions.
        strides = (self.stride, 1)
        if self.late_stride:
            strides = (1, self.stride)

        # Both convolutions: (N, H / stride, W / stride, features).
        first = Normalized(name="input", **common)(x, train=train)
        conv0 = convolution(
            kernel=3, stride=strides[0], activation=True, name="conv0", **shared
        )
        y = Normalized(name="middle", **common)(conv0(first), train=train)
        conv1 = convolution(kernel=3, stride=strides[1], name="conv1", **shared)
        y = conv1(y)

        # SENet's factor of each channel.
        if self.gate is not None:
            hidden = self.features // self.gate
            gate = Gate(features=self.features, hidden=hidden, name="gate", **common)
            y = y * gate(y)

        # The shortcut.
        if not self.changes_shape(x):
            return x + y
        source = first
        if self.late_stride:
            source = x
        shortcut = convolution(
            kernel=1,
            stride=self.stride,
            binary=not self.float_shortcut,
            name="shortcut",
            **shared,
        )
        return shortcut(source) + y


class Gate(nn.Module):
    """Squeeze and excitation: a factor from 0 to 1 for each image and channel.

    (N, H, W, C) to (N, 1, 1, C). Its convolutions are float.
    """

    features: int
    hidden: int
    scheme: Scheme
    arithmetic: Arithmetic

    @nn.compact
    def __call__(self, x):
        common: dict[str, Any] = {
            "scheme": self.scheme,
            "arithmetic": self.arithmetic,
            "binary": False,
            "bias": True,
        }
        # The mean over the image, to `hidden` channels and back.
        y = jnp.mean(x, axis=(1, 2), keepdims=True)  # (N, 1, 1, C)
        squeeze = convolution(self.hidden, kernel=1, name="squeeze", **common)
        y = nn.relu(squeeze(y))  # (N, 1, 1, hidden)
        excite = convolution(self.features, kernel=1, name="excite", **common)
        return nn.sigmoid(excite(y))
