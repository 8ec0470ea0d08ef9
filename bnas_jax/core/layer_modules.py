"""The modules of the layer types that are not in `modules`.

Each maps (N, H, W, C) to (N, H / stride, W / stride, features).
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
    """A depthwise and a pointwise convolution (section 4.1.2, Eq. 3), `times` in a row.

    Only the first depthwise convolution is strided. Each convolution is BN -> sign ->
    convolution -> activation, the pointwise one as well, which reads real values in
    Eq. 3 as printed. In a float scheme's order `relu_first`, each pair is ReLU ->
    depthwise -> pointwise -> BN.

    Caution: a depthwise kernel has a single input channel. XNOR-Net centres latent
    weights over the input channels, which would make a depthwise kernel zero: the layer
    would output zeros and never learn (`Xnor.depthwise_center`).

    times: the number of pairs of convolutions.
    copies: how many such layers run together, each on its part of the channels.
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
        # Only the first pair strides; only the last changes the number of channels.
        channels = x.shape[-1]
        strides = [self.stride] + [1] * (self.times - 1)
        features = [channels] * (self.times - 1) + [self.features]

        # In the order `relu_first` a pair is one chain, with a single ReLU and BN:
        # `first` and `last` say where the chain begins and ends.
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
            y = depthwise(x, train=train)  # (N, H', W', C)
            x = pointwise(y, train=train)  # (N, H', W', features[time])
        return x


class Crossed(nn.Module):
    """A 1 x k convolution, then a k x 1 one.

    The first strides along the columns, the second along the rows.

    groups: the number of groups of each convolution.
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
        # In the order `relu_first` both are one chain, with a single ReLU and BN:
        # `first` and `last` say where the chain begins and ends.
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
        return down(y, train=train)  # (N, H / stride, W / stride, features)


def _largest_divisor(number: int, *, at_most: int) -> int:
    """The largest divisor of `number` up to a limit."""
    return max(n for n in range(1, at_most + 1) if number % n == 0)


class MobiNet(nn.Module):
    """MoBiNet's block: h = s(x) + conv(x), then d(h) + pointwise(h).

    conv: a k x k `BinaryConv`, whose outputs see up to `inputs` channels each.
    pointwise: a 1 x 1 `BinaryConv`.
    s: the identity; with a stride, an average pooling.
    d: repeats the channels of h up to the number of features. There is no d where
        features is not a multiple of the channels.

    inputs: how many channels each output of conv sees; where this number does not
        divide the channels, the largest smaller number that does.
    copies: how many such blocks run together, each on its part of the channels.
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
        # How many channels an output of the k x k convolution sees.
        channels = x.shape[-1]
        seen = _largest_divisor(channels // self.copies, at_most=self.inputs)

        # Both convolutions: k x k in groups of `seen` channels, then 1 x 1.
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
        h = shortcut + spatial(x, train=train)  # (N, H', W', C)

        # d(h) + pointwise(h); the channels are repeated within each copy.
        y = pointwise(h, train=train)  # (N, H', W', features)
        if self.features % channels:
            return y
        times = self.features // channels
        image = h.shape[:3]
        copies = h.reshape(*image, self.copies, -1)  # (N, H', W', copies, C / copies)
        repeated = jnp.tile(copies, (1, 1, 1, 1, times))  # (..., features / copies)
        return y + repeated.reshape(y.shape)


class Identity(nn.Module):
    """The identity, (N, H, W, C) to the same."""

    def __call__(self, x, *, train: bool):
        del train
        return x


class Pooling(nn.Module):
    """A pooling, and a BN after it if `batch_norm`.

    function: (x, stride) -> the pooled x.
    batch_norm: see `forms.Form` for the networks that have this BN.
    affine: whether the BN has scale and shift.
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
        if not self.batch_norm:
            return y
        bn = BatchNorm(self.arithmetic, affine=self.affine, name="bn")
        return bn(y, train=train)


class Zeroise(nn.Module):
    """Zeros: (N, H, W, C) to (N, H / stride, W / stride, C), rounded up."""

    stride: int

    def __call__(self, x, *, train: bool):
        del train
        return jnp.zeros_like(x[:, :: self.stride, :: self.stride])
