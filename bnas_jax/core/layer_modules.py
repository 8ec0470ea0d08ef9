"""The modules of layer types, beside those of `modules`: (N, H, W, C) to (N, H /
stride, W / stride, features).
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.modules import BinaryConv
from bnas_jax.core.normalization import BatchNorm
from bnas_jax.core.schemes.scheme import Scheme


class Separable(nn.Module):
    """A depthwise and a pointwise convolution (section 4.1.2, Eq. 3), `times` in a row,
    the first depthwise one strided.

    Each of them is BN -> sign -> convolution -> activation; in a float scheme's order
    `relu_first` each pair is ReLU -> depthwise -> pointwise -> BN.

    Trap: a depthwise kernel has a single input channel, so that centring the latent
    weights over input channels, as XNOR-Net does, makes them zero: the layer gives
    zeros and never learns (`Xnor.depthwise_center`).

    copies: how many of these run side by side, each with its part of the channels.
    """

    features: int
    kernel: int
    dilation: int
    times: int
    stride: int
    scheme: Scheme
    arithmetic: Arithmetic
    binary_weights: bool
    affine: bool
    copies: int = 1

    @nn.compact
    def __call__(self, x, *, train: bool):
        conv = functools.partial(
            BinaryConv,
            scheme=self.scheme,
            arithmetic=self.arithmetic,
            binary_weights=self.binary_weights,
            affine=self.affine,
        )
        # Only the first strides, and only the last changes the number of channels.
        channels = x.shape[-1]
        strides = [self.stride] + [1] * (self.times - 1)
        features = [channels] * (self.times - 1) + [self.features]
        for time in range(self.times):
            depthwise = conv(
                features=channels,
                kernel=self.kernel,
                stride=strides[time],
                dilation=self.dilation,
                groups=channels,
                bias=False,
                last=False,
                name=f"depthwise{time}",
            )
            pointwise = conv(
                features=features[time],
                kernel=1,
                groups=self.copies,
                first=False,
                name=f"pointwise{time}",
            )
            x = pointwise(depthwise(x, train=train), train=train)
        return x


class Crossed(nn.Module):
    """A 1 x k convolution that strides along the columns, then a k x 1 one that strides
    along the rows. groups: of both.
    """

    features: int
    kernel: int
    stride: int
    scheme: Scheme
    arithmetic: Arithmetic
    binary_weights: bool
    affine: bool
    groups: int = 1

    @nn.compact
    def __call__(self, x, *, train: bool):
        conv = functools.partial(
            BinaryConv,
            scheme=self.scheme,
            arithmetic=self.arithmetic,
            binary_weights=self.binary_weights,
            affine=self.affine,
            groups=self.groups,
        )
        # In the order `relu_first` both are one chain, with a single ReLU and BN.
        across = conv(
            features=x.shape[-1],
            kernel=(1, self.kernel),
            stride=(1, self.stride),
            last=False,
            name="across",
        )
        down = conv(
            features=self.features,
            kernel=(self.kernel, 1),
            stride=(self.stride, 1),
            first=False,
            name="down",
        )
        y = across(x, train=train)  # (N, H, W / stride, C)
        return down(y, train=train)


def _largest_divisor(number: int, *, at_most: int) -> int:
    return max(n for n in range(1, at_most + 1) if number % n == 0)


class MobiNet(nn.Module):
    """h = s(x) + conv(x), whose outputs see up to `inputs` channels each through k x k
    kernels, then d(h) + pointwise(h).

    s: the identity, or an average pooling where strided. d: the identity, or the
    channels repeated until there are as many as features; left out where those are no
    multiple. Both convolutions are `BinaryConv`s. copies: as for `Separable`. Where
    `inputs` does not divide the channels, outputs see as many as the largest number
    below it that does.
    """

    features: int
    kernel: int
    inputs: int
    stride: int
    scheme: Scheme
    arithmetic: Arithmetic
    binary_weights: bool
    affine: bool
    copies: int = 1

    @nn.compact
    def __call__(self, x, *, train: bool):
        channels = x.shape[-1]
        seen = _largest_divisor(channels // self.copies, at_most=self.inputs)
        conv = functools.partial(
            BinaryConv,
            scheme=self.scheme,
            arithmetic=self.arithmetic,
            binary_weights=self.binary_weights,
            affine=self.affine,
        )
        spatial = conv(
            features=channels,
            kernel=self.kernel,
            stride=self.stride,
            groups=channels // seen,
            name="spatial",
        )
        pointwise = conv(
            features=self.features,
            kernel=1,
            groups=self.copies,
            name="pointwise",
        )

        # h = s(x) + conv(x)
        shortcut = x
        if self.stride > 1:
            window = (self.stride, self.stride)
            shortcut = nn.avg_pool(x, window, strides=window)
        h = shortcut + spatial(x, train=train)

        # d(h) + pointwise(h)
        y = pointwise(h, train=train)
        if self.features % channels:
            return y
        times = self.features // channels
        copies = h.reshape(
            *h.shape[:3], self.copies, -1
        )  # (N, H', W', copies, C / copies)
        repeated = jnp.tile(copies, (1, 1, 1, 1, times))
        return y + repeated.reshape(y.shape)


class Identity(nn.Module):
    """The identity, (N, H, W, C) to the same."""

    def __call__(self, x, *, train: bool):
        del train
        return x


class Pooling(nn.Module):
    """A pooling, and a BN behind it where wanted. affine: whether that has scale and
    shift.
    """

    function: Callable[[jax.Array, int], jax.Array]
    stride: int
    arithmetic: Arithmetic
    batch_norm: bool
    affine: bool = False

    @nn.compact
    def __call__(self, x, *, train: bool):
        # An average sums in float32, whatever the type between layers.
        y = self.function(x.astype(self.arithmetic.dtype), self.stride)
        y = self.arithmetic.between_layers(y)
        # Which forms have one: `forms.Form`.
        if not self.batch_norm:
            return y
        return BatchNorm(self.arithmetic, affine=self.affine, name="bn")(y, train=train)


class Zeroise(nn.Module):
    """Zeros, (N, H, W, C) to (N, H / stride, W / stride, C), rounded up."""

    stride: int

    def __call__(self, x, *, train: bool):
        del train
        return jnp.zeros_like(x[:, :: self.stride, :: self.stride])
