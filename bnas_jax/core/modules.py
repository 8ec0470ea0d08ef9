"""The modules that layer types, cells and networks are made of.

`BinaryConv` and `FactorizedReduce` are `convolution.Convolution`s with a batch norm and
an activation, in the order of the scheme. `FloatConv` and `Classifier` are the float
layers at both ends of a network.

Images are NHWC, kernels (kh, kw, ci, co).
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.convolution import Convolution
from bnas_jax.core.errors import UserError
from bnas_jax.core.initializers import bias_init, uniform_fan_in
from bnas_jax.core.normalization import BatchNorm
from bnas_jax.core.ops.conv import float_conv
from bnas_jax.core.ops.geometry import Pair, rectangle, square
from bnas_jax.core.schemes.scheme import BN_FIRST, Scheme


def in_order(
    scheme: Scheme,
    x,
    convolve: Callable,
    normalize: Callable,
    *,
    first: bool = True,
    last: bool = True,
):
    """x through a convolution and its batch norm, in `Scheme.order`.

    In the order `bn_first` each convolution has a BN and an activation of its own. In
    the order `relu_first` a chain of convolutions has one ReLU at its beginning and one
    BN at its end.

    convolve: (x, activation) -> the convolution of x; activation is True where the
        scheme's activation follows the sums.
    normalize: (x) -> x after the batch norm.
    first, last: whether the convolution is the first and the last one of its chain.
    """
    # BN -> convolution -> activation.
    if scheme.order == BN_FIRST:
        return convolve(normalize(x), True)

    # ReLU -> convolution -> BN: no activation follows the sums.
    if first:
        x = nn.relu(x)
    y = convolve(x, False)
    if last:
        y = normalize(y)
    return y


class BinaryConv(nn.Module):
    """BN -> sign -> convolution, scaled -> activation (section 4.1; XNOR-Net's order).

    A float scheme may have the order `relu_first`: ReLU -> convolution -> BN.

    Raises `UserError` where the groups do not divide the input and output channels.

    kernel, stride: in pixels, or (rows, columns).
    padding: zeros on each side; None keeps the image's size at stride 1.
    groups: the number of groups of input and output channels.
    binary_weights: False multiplies binary activations by float weights, as the
        released code does by its index error.
    binary_input: False keeps the activations float, as in the preprocessing
        convolutions of the released search.
    affine: whether the BN has scale and shift.
    activation: False leaves out the scheme's activation.
    bias: False leaves out the bias of `Scheme.bias`.
    first, last: see `in_order`.
    """

    features: int
    kernel: int | Pair
    scheme: Scheme
    arithmetic: Arithmetic
    stride: int | Pair = 1
    dilation: int = 1
    padding: int | None = None
    groups: int = 1
    binary_weights: bool = True
    binary_input: bool = True
    affine: bool = True
    activation: bool = True
    bias: bool = True
    first: bool = True
    last: bool = True

    @nn.compact
    def __call__(self, x, *, train: bool):
        if x.shape[-1] % self.groups or self.features % self.groups:
            raise UserError(
                f"{self.groups} groups of a convolution do not divide its "
                f"{x.shape[-1]} input and {self.features} output channels; choose "
                "config.network.channels so that they do"
            )

        def normalize(x):
            bn = BatchNorm(self.arithmetic, affine=self.affine, name="bn")
            return bn(x, train=train)

        return in_order(
            self.scheme,
            x,
            convolve=self._convolve,
            normalize=normalize,
            first=self.first,
            last=self.last,
        )

    def _convolve(self, x, activation: bool):
        """The convolution without its batch norm.

        activation: whether the scheme's activation may follow the sums.
        """
        # The size of the kernel, and how it moves.
        kernel, stride = _pair(self.kernel), _pair(self.stride)
        geometry = rectangle(
            kernel,
            stride=stride,
            dilation=self.dilation,
            padding=self.padding,
            groups=self.groups,
        )
        convolution = Convolution(
            features=self.features,
            kernel=kernel,
            geometry=geometry,
            scheme=self.scheme,
            arithmetic=self.arithmetic,
            binary_weights=self.binary_weights,
            binary_input=self.binary_input,
            activation=self.activation and activation,
            # A BN with a shift makes the bias superfluous.
            bias=self.bias and self.scheme.bias and not self.affine,
            name="conv",
        )
        return convolution(x)


def _pair(size: int | Pair) -> Pair:
    """(rows, columns) of a size, which may be one number for both."""
    if isinstance(size, int):
        return size, size
    return size


class FactorizedReduce(nn.Module):
    """Halves the image without losing pixels (DARTS's code).

    It maps (N, H, W, C) to (N, H / 2, W / 2, features), rounded up. Two 1x1
    convolutions of stride 2 give half of the features each; the second one reads the
    image shifted by one pixel on both axes. The order of BN, convolution and activation
    is that of `BinaryConv`.

    An odd size lacks a row or column for the second convolution: there it reads zeros.
    A scheme takes their signs, while padding elsewhere stays 0. No network here has
    such sizes.

    copies: how many such layers run side by side, each with its part of the input
        channels and of the features.
    """

    features: int
    scheme: Scheme
    arithmetic: Arithmetic
    binary_weights: bool = True
    binary_input: bool = True
    affine: bool = True
    copies: int = 1

    @nn.compact
    def __call__(self, x, *, train: bool):
        def normalize(x):
            bn = BatchNorm(self.arithmetic, affine=self.affine, name="bn")
            return bn(x, train=train)

        return in_order(self.scheme, x, convolve=self._convolve, normalize=normalize)

    def _convolve(self, x, activation: bool):
        """Both convolutions, (N, H', W', features).

        activation: whether the scheme's activation follows the sums.
        """
        # The image shifted by one pixel, with zeros in the last row and column.
        padded = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))  # (N, H + 1, W + 1, C)
        shifted = padded[:, 1:, 1:]  # (N, H, W, C)

        # If the number of features is odd, the second convolution has one more.
        features = self.features // self.copies
        first = features // 2
        second = features - first
        convolutions = (("conv0", x, first), ("conv1", shifted, second))

        # Each convolution gives its half of the features of every copy.
        parts = []
        for name, image, part in convolutions:
            convolution = Convolution(
                features=self.copies * part,
                kernel=(1, 1),
                geometry=rectangle((1, 1), stride=(2, 2), groups=self.copies),
                scheme=self.scheme,
                arithmetic=self.arithmetic,
                binary_weights=self.binary_weights,
                binary_input=self.binary_input,
                activation=activation,
                bias=self.scheme.bias and not self.affine,
                name=name,
            )
            y = convolution(image)  # (N, H', W', copies * part)
            parts.append(y.reshape(*y.shape[:3], self.copies, part))

        # Concatenate within each copy: first the features of `conv0`.
        y = jnp.concatenate(parts, axis=-1)  # (N, H', W', copies, features / copies)
        return y.reshape(*y.shape[:3], self.features)


class FloatConv(nn.Module):
    """A float convolution without bias, for stems.

    It maps (N, H, W, C) to (N, H / stride, W / stride, features).
    """

    features: int
    kernel: int
    arithmetic: Arithmetic
    stride: int = 1

    @nn.compact
    def __call__(self, x):
        arithmetic = self.arithmetic
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", uniform_fan_in, shape, arithmetic.dtype)
        y = float_conv(
            x.astype(arithmetic.dtype),
            kernel,
            geometry=square(self.kernel, stride=self.stride),
            arithmetic=arithmetic,
        )
        return self.arithmetic.between_layers(y)

    def macs(self, x, y) -> tuple[int, int]:
        """(binary, float) multiply-accumulates of one image."""
        _, height, width, _ = y.shape
        taps = self.kernel**2
        return 0, height * width * self.features * taps * x.shape[-1]


class Classifier(nn.Module):
    """Global average pooling, then a float linear layer.

    It maps (N, H, W, C) to logits (N, num_classes).
    """

    num_classes: int
    arithmetic: Arithmetic

    @nn.compact
    def __call__(self, x):
        channels, dtype = x.shape[-1], self.arithmetic.dtype
        x = jnp.mean(x.astype(dtype), axis=(1, 2))  # (N, C)
        shape = (channels, self.num_classes)
        kernel = self.param("kernel", uniform_fan_in, shape, dtype)
        y = x @ kernel  # (N, num_classes)
        return y + self.param("bias", bias_init(channels), (self.num_classes,), dtype)

    def macs(self, x, y) -> tuple[int, int]:
        """(binary, float) multiply-accumulates of one image."""
        return 0, x.shape[-1] * self.num_classes
