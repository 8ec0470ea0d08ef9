"""The modules that layer types, cells and networks are made of.

Images are NHWC, kernels (kh, kw, ci, co).
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.errors import UserError
from bnas_jax.core.normalization import BatchNorm
from bnas_jax.core.ops.conv import Geometry, Pair, conv, rectangle, square
from bnas_jax.core.schemes.scheme import ACTIVATIONS, BN_FIRST, Scheme

# The collection of variables that a packed network has in place of latent weights; see
# `Convolution.binarized`.
PACKED = "packed"


def uniform_fan_in(key, shape, dtype):
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default for convolutions and linear
    layers.

    shape: that of a kernel, (kh, kw, ci, co) or (ci, co); fan_in is the product of all
    but the last.
    """
    bound = 1 / np.sqrt(np.prod(shape[:-1]))
    return jax.random.uniform(key, shape, dtype, minval=-bound, maxval=bound)


def bias_init(fan_in: int) -> Callable:
    """Initialiser U(-1/sqrt(fan_in), 1/sqrt(fan_in)) of a bias, with the fan_in of the
    kernel beside it.
    """
    bound = 1 / np.sqrt(fan_in)

    def init(key, shape, dtype):
        return jax.random.uniform(key, shape, dtype, minval=-bound, maxval=bound)

    return init


class PRelu(nn.Module):
    """x where it is positive, else slope * x, with a slope for each channel that is
    learned (arXiv 1502.01852).
    """

    arithmetic: Arithmetic

    @nn.compact
    def __call__(self, x):
        # PyTorch's first slope.
        start = nn.initializers.constant(0.25)
        slope = self.param("slope", start, (x.shape[-1],), self.arithmetic.dtype)
        return jnp.where(x > 0, x, slope * x)


def activated(x, activation: str, *, arithmetic: Arithmetic):
    """x behind an activation, one of `scheme.ACTIVATIONS`.

    Called within a module's `__call__`, whose part a PReLU becomes.
    """
    # The one activation that learns.
    if activation == "prelu":
        return PRelu(arithmetic, name="prelu")(x)
    return ACTIVATIONS[activation](x)


class Convolution(nn.Module):
    """A scheme's convolution alone: (N, H, W, C) to (N, H', W', features).

    Its weights are the parameter `latent` where they are binarized and `kernel` where
    they stay float; the optimizer treats parameters of the name `latent` as
    `Scheme.latents` says. What it computes is `Scheme.convolve` or `convolve_float`.

    binary_weights, binary_input: False keeps that side float. activation: the scheme's,
    behind the sums and the bias.
    """

    features: int
    kernel: Pair
    geometry: Geometry
    scheme: Scheme
    arithmetic: Arithmetic
    binary_weights: bool = True
    binary_input: bool = True
    activation: bool = True
    bias: bool = False

    @nn.compact
    def __call__(self, x):
        x = x.astype(self.arithmetic.dtype)
        # The scheme makes the parameters `latent` or `kernel`, and others that it
        # needs.
        if self.has_latent:
            y = self.scheme.convolve(self, x)
        else:
            y = self.scheme.convolve_float(self, x)
        if self.bias:
            fan_in = int(np.prod(self.kernel_shape(x)[:-1]))
            init = bias_init(fan_in)
            y = y + self.param("bias", init, (self.features,), self.arithmetic.dtype)
        # What the scheme has left to do: a PReLU, and any activation behind a bias.
        if self.activation and (self.bias or self.scheme.activation == "prelu"):
            y = activated(y, self.scheme.activation, arithmetic=self.arithmetic)
        return self.arithmetic.between_layers(y)

    def binarized(self, x) -> tuple:
        """(signs, operands) of its weights: `Scheme.kernel`'s, or those of a packed
        network.

        Called within `__call__`.
        """
        if self.has_variable(PACKED, "kernel"):
            stored: tuple = tuple(
                self.get_variable(PACKED, name) for name in ("kernel", "operands")
            )
            return stored
        return self.scheme.kernel(self, x)

    def float_kernel(self, x, features: int | None = None):
        """The float kernel (kh, kw, C / groups, features), by default as many as the
        outputs.

        Called within `__call__`.
        """
        return self._kernel("kernel", x, features=features)

    def latent(self, x, features: int | None = None):
        """The latent weights (kh, kw, C / groups, features), by default as many as the
        outputs.

        Called within `__call__`.
        """
        return self._kernel("latent", x, features=features)

    def _kernel(self, name: str, x, *, features: int | None):
        shape = self.kernel_shape(x)
        if features is not None:
            shape = (*shape[:-1], features)
        return self.param(name, uniform_fan_in, shape, self.arithmetic.dtype)

    def kernel_shape(self, x) -> tuple[int, int, int, int]:
        """(kh, kw, C / groups, features)."""
        return (*self.kernel, x.shape[-1] // self.geometry.groups, self.features)

    @property
    def activates_sums(self) -> bool:
        """Whether the scheme's activation follows its sums at once, as it does without
        a bias.
        """
        return self.activation and not self.bias

    @property
    def has_latent(self) -> bool:
        """Whether its weights are binarized: the parameter is `latent`, in floating
        point, in place of `kernel`.
        """
        return self.binary_weights and self.scheme.binary_weights

    def output_shape(self, x) -> tuple[int, ...]:
        """(N, H', W', features)."""
        size = self.geometry.output_size(x.shape[1:3], self.kernel)
        return (x.shape[0], *size, self.features)

    def macs(self, x, y) -> tuple[int, int]:
        """(binary, float) multiply-accumulates of one image."""
        _, height, width, _ = y.shape
        taps = int(np.prod(self.kernel))
        inputs = x.shape[-1] // self.geometry.groups
        count = height * width * self.features * taps * inputs
        # Binary only where both factors are.
        if self.has_latent and self.binary_input:
            return count, 0
        return 0, count


def in_order(
    scheme: Scheme,
    x,
    convolve: Callable,
    normalize: Callable,
    *,
    first: bool = True,
    last: bool = True,
):
    """x through `convolve(x, activation)` and `normalize(x)` in `Scheme.order`: the one
    place that knows what the orders are.

    first, last: whether the convolution begins and ends a chain of several. In the
    order `relu_first` a chain has one ReLU and one BN; in the order `bn_first` each
    convolution has both.
    """
    if scheme.order == BN_FIRST:
        return convolve(normalize(x), True)
    # ReLU -> convolution -> BN, the ReLU in front instead of the convolution's
    # activation.
    if first:
        x = nn.relu(x)
    y = convolve(x, False)
    if last:
        y = normalize(y)
    return y


class BinaryConv(nn.Module):
    """BN -> sign -> convolution, scaled -> activation (section 4.1; XNOR-Net's order).

    With the order `relu_first` of a float scheme: ReLU -> convolution -> BN; first,
    last: see `in_order`.
    kernel, stride: in pixels, or (rows, columns). bias: False leaves out that of
    `Scheme.bias`. binary_weights=False keeps float weights behind binary activations,
    as the released code does by its index error; binary_input=False keeps the
    activations float, too, as in the preprocessing convolutions of its search.
    padding: None keeps the image's size at stride 1. groups: of input and output
    channels; `UserError` where they do not divide both.
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
                f"{x.shape[-1]} input and {self.features} output"
                f" channels; choose config.network.channels so that they do"
            )

        def normalize(x):
            return BatchNorm(self.arithmetic, affine=self.affine, name="bn")(
                x, train=train
            )

        return in_order(
            self.scheme,
            x,
            convolve=self._convolve,
            normalize=normalize,
            first=self.first,
            last=self.last,
        )

    def _convolve(self, x, activation: bool):
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
            # A BN with a shift needs no bias beside it.
            bias=self.bias and self.scheme.bias and not self.affine,
            name="conv",
        )
        return convolution(x)


def _pair(size: int | Pair) -> Pair:
    if isinstance(size, int):
        return size, size
    return size


class FactorizedReduce(nn.Module):
    """Halves the image without losing pixels: (N, H, W, C) to (N, H / 2, W / 2,
    features), rounded up (DARTS's code).

    Two 1x1 convolutions of stride 2, the second a pixel on in both axes, have half of
    the features each. BN and activation around them as for `BinaryConv`.

    copies: how many of them run side by side, each with its part of the input channels
    and of the features.
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
            return BatchNorm(self.arithmetic, affine=self.affine, name="bn")(
                x, train=train
            )

        return in_order(self.scheme, x, convolve=self._convolve, normalize=normalize)

    def _convolve(self, x, activation: bool):
        # A row and a column of zeros, which odd sizes need.
        padded = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
        shifted = padded[:, 1:, 1:]

        # If the number of features is odd, the second convolution has one more.
        features = self.features // self.copies
        first = features // 2
        convolutions = (("conv0", x, first), ("conv1", shifted, features - first))
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
            y = convolution(image)
            parts.append(y.reshape(*y.shape[:3], self.copies, part))
        # The features of a copy lie together: first those of `conv0`, then those of
        # `conv1`.
        y = jnp.concatenate(parts, axis=-1)  # (N, H', W', copies, features / copies)
        return y.reshape(*y.shape[:3], self.features)


class FloatConv(nn.Module):
    """A float convolution without bias, (N, H, W, C) to (N, H / stride, W / stride,
    features): those of the stem.
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
        y = conv(
            x.astype(arithmetic.dtype),
            kernel,
            geometry=square(self.kernel, stride=self.stride),
            dtype=arithmetic.conv_dtype,
            plain=arithmetic.plain,
        )
        return self.arithmetic.between_layers(y)

    def macs(self, x, y) -> tuple[int, int]:
        """(binary, float) multiply-accumulates of one image."""
        _, height, width, _ = y.shape
        taps = self.kernel**2
        return 0, height * width * self.features * taps * x.shape[-1]


class Classifier(nn.Module):
    """Global average pooling and a float linear layer: (N, H, W, C) to logits (N,
    num_classes).
    """

    num_classes: int
    arithmetic: Arithmetic

    @nn.compact
    def __call__(self, x):
        channels, dtype = x.shape[-1], self.arithmetic.dtype
        x = jnp.mean(x.astype(dtype), axis=(1, 2))  # (N, C)
        kernel = self.param(
            "kernel", uniform_fan_in, (channels, self.num_classes), dtype
        )
        y = x @ kernel
        return y + self.param("bias", bias_init(channels), (self.num_classes,), dtype)

    def macs(self, x, y) -> tuple[int, int]:
        """(binary, float) multiply-accumulates of one image."""
        return 0, x.shape[-1] * self.num_classes
