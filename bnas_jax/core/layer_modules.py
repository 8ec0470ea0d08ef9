"""The modules of layer types, beside those of `modules`: (N, H, W, C) to (N, H / stride, W / stride, features)."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.errors import UserError
from bnas_jax.core.modules import BatchNorm, BinaryConv
from bnas_jax.core.schemes.scheme import Scheme


class Separable(nn.Module):
    """A depthwise and a pointwise convolution, `times` in a row, the first one strided.

    Each of them is BN -> sign -> convolution -> activation; in a float scheme's order `relu_first` each pair is
    ReLU -> depthwise -> pointwise -> BN.

    Trap: a depthwise kernel has a single input channel, so that centring the latent weights over input channels, as XNOR-Net
    does, makes them zero: the layer gives zeros and never learns (`Xnor.depthwise_center`).
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
        channels = x.shape[-1]
        for time in range(self.times):
            depthwise = conv(
                features=channels,
                kernel=self.kernel,
                stride=self.stride if time == 0 else 1,
                dilation=self.dilation,
                groups=channels,
                bias=False,
                last=False,
                name=f"depthwise{time}",
            )
            pointwise = conv(
                features=self.features if time == self.times - 1 else channels,
                kernel=1,
                groups=self.copies,
                first=False,
                name=f"pointwise{time}",
            )
            x = pointwise(depthwise(x, train=train), train=train)
        return x


class Crossed(nn.Module):
    """A 1 x k and a k x 1 convolution, which stride along the columns and the rows. groups: of both."""

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
        return down(across(x, train=train), train=train)


class MobiNet(nn.Module):
    """h = s(x) + conv(x) with k x k kernels that see `inputs` channels each, then d(h) + pointwise(h).

    s: the identity, or an average pooling where strided. d: the identity, or the channels repeated until there are as many as
    features; left out where those are no multiple. Both convolutions are `BinaryConv`s.
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
        if channels // self.copies % self.inputs:
            raise UserError(
                f"a convolution whose outputs see {self.inputs} channels each needs a multiple of them;"
                f" it has {channels // self.copies}: change config.network.channels"
            )
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
            groups=channels // self.inputs,
            name="spatial",
        )
        pointwise = conv(features=self.features, kernel=1, groups=self.copies, name="pointwise")
        window = (self.stride, self.stride)
        shortcut = x if self.stride == 1 else nn.avg_pool(x, window, window)
        h = shortcut + spatial(x, train=train)
        y = pointwise(h, train=train)
        if self.features % channels:
            return y
        times = self.features // channels
        copies = h.reshape(*h.shape[:3], self.copies, -1)
        return y + jnp.tile(copies, (1, 1, 1, 1, times)).reshape(y.shape)


class Identity(nn.Module):
    """What comes in."""

    def __call__(self, x, *, train: bool):
        del train
        return x


class Pooling(nn.Module):
    """A pooling, and a BN behind it where wanted. affine: whether that has scale and shift."""

    function: Callable[[jax.Array, int], jax.Array]
    stride: int
    arithmetic: Arithmetic
    batch_norm: bool
    affine: bool = False

    @nn.compact
    def __call__(self, x, *, train: bool):
        # An average sums in float32, whatever the layers hand on.
        y = self.function(x.astype(self.arithmetic.dtype), self.stride)
        y = self.arithmetic.between_layers(y)
        if not self.batch_norm:
            return y
        return BatchNorm(self.arithmetic, affine=self.affine, name="bn")(y, train=train)


class Zeroise(nn.Module):
    """Zeros of the output's shape."""

    stride: int

    def __call__(self, x, *, train: bool):
        del train
        return jnp.zeros_like(x[:, :: self.stride, :: self.stride])
