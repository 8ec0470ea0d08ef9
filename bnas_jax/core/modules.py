"""The modules that layer types, cells and networks are made of. Images are NHWC, kernels (kh, kw, ci, co)."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.ops.batch_norm import batch_norm, initial_statistics
from bnas_jax.core.ops.conv import Geometry, Pair, conv, square
from bnas_jax.core.schemes.scheme import Scheme, binary_conv, float_input_conv, float_weight_conv


def uniform_fan_in(key, shape, dtype):
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default for convolutions and linear layers."""
    bound = 1 / np.sqrt(np.prod(shape[:-1]))
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def bias_init(fan_in: int):
    """Initialiser U(-1/sqrt(fan_in), 1/sqrt(fan_in)) of a bias."""
    bound = 1 / np.sqrt(fan_in)
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


class BatchNorm(nn.Module):
    """Batch normalization with its running statistics, and scale and shift where `affine`."""

    arithmetic: Arithmetic
    affine: bool = True

    @nn.compact
    def __call__(self, x, *, train: bool):
        dtype, channels = self.arithmetic.dtype, x.shape[-1]
        start = initial_statistics((channels,), dtype)
        running = {name: self.variable("batch_stats", name, lambda value=value: value) for name, value in start.items()}
        values = {name: variable.value for name, variable in running.items()}
        y, new = batch_norm(x, values, arithmetic=self.arithmetic, train=train)
        if train and not self.is_initializing():
            for name, variable in running.items():
                variable.value = new[name]
        if self.affine:
            y = y * self.param("scale", nn.initializers.ones, (channels,), dtype)
            y = y + self.param("bias", nn.initializers.zeros, (channels,), dtype)
        return y


class Convolution(nn.Module):
    """A scheme's convolution alone: (N, H, W, C) to (N, H', W', features).

    Its weights are the parameter `latent` where they are binarized and `kernel` where they stay float; the optimizer treats
    parameters of the name `latent` as `Scheme.latents` says.

    binary_weights, binary_input: False keeps that side float. activation: the scheme's, behind the sums.
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
        shape = (*self.kernel, x.shape[-1] // self.geometry.groups, self.features)
        convolve = functools.partial(
            self._convolution(), scheme=self.scheme, geometry=self.geometry, arithmetic=self.arithmetic
        )
        dtype = self.arithmetic.dtype
        weights = self.param("latent" if self.has_latent else "kernel", uniform_fan_in, shape, dtype)
        if not self.has_latent:
            y = convolve(x, weights, binary_input=self.binary_input, activation=self.activation)
        else:
            learned = self.scheme.parameters(self, self.output_shape(x))
            y = convolve(x, weights, parameters=learned, activation=self.activation)
        if self.bias:
            y = y + self.param("bias", bias_init(int(np.prod(shape[:-1]))), (self.features,), dtype)
        return y

    def _convolution(self) -> Callable:
        if not self.has_latent:
            return float_weight_conv
        return binary_conv if self.binary_input else float_input_conv

    @property
    def has_latent(self) -> bool:
        """Whether its weights are stored as one bit."""
        return self.binary_weights and self.scheme.binary

    def output_shape(self, x) -> tuple[int, ...]:
        """(N, H', W', features)."""
        return (x.shape[0], *self.geometry.output_size(x.shape[1:3], self.kernel), self.features)

    def macs(self, x, y) -> tuple[int, int]:
        """(binary, float) multiply-accumulates of one image."""
        size = int(np.prod(self.kernel)) * (x.shape[-1] // self.geometry.groups)
        count = y.shape[1] * y.shape[2] * self.features * size
        if self.has_latent and self.binary_input:
            return count, 0
        return 0, count


class BinaryConv(nn.Module):
    """BN -> sign -> convolution, scaled -> activation (section 4.1; XNOR-Net's order).

    binary_weights=False keeps float weights behind binary activations, as the released code does by its index error;
    binary_input=False keeps the activations float, too, as in the preprocessing convolutions of its search.
    padding: None keeps the image's size at stride 1.
    """

    features: int
    kernel: int
    scheme: Scheme
    arithmetic: Arithmetic
    stride: int = 1
    dilation: int = 1
    padding: int | None = None
    binary_weights: bool = True
    binary_input: bool = True
    affine: bool = True
    activation: bool = True

    @nn.compact
    def __call__(self, x, *, train: bool):
        geometry = square(self.kernel, stride=self.stride, dilation=self.dilation, padding=self.padding)
        x = BatchNorm(self.arithmetic, affine=self.affine, name="bn")(x, train=train)
        return Convolution(
            features=self.features,
            kernel=(self.kernel, self.kernel),
            geometry=geometry,
            scheme=self.scheme,
            arithmetic=self.arithmetic,
            binary_weights=self.binary_weights,
            binary_input=self.binary_input,
            activation=self.activation,
            name="conv",
        )(x)


class FloatConv(nn.Module):
    """A float convolution without bias: those of the stem."""

    features: int
    kernel: int
    arithmetic: Arithmetic
    stride: int = 1

    @nn.compact
    def __call__(self, x):
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", uniform_fan_in, shape, self.arithmetic.dtype)
        geometry = square(self.kernel, stride=self.stride)
        return conv(x, kernel, geometry, dtype=self.arithmetic.conv_dtype, plain=self.arithmetic.plain)

    def macs(self, x, y) -> tuple[int, int]:
        """(binary, float) multiply-accumulates of one image."""
        return 0, y.shape[1] * y.shape[2] * self.features * self.kernel**2 * x.shape[-1]


class Classifier(nn.Module):
    """Global average pooling and a float linear layer: (N, H, W, C) to logits (N, num_classes)."""

    num_classes: int
    arithmetic: Arithmetic

    @nn.compact
    def __call__(self, x):
        x = jnp.mean(x, axis=(1, 2))
        dtype = self.arithmetic.dtype
        kernel = self.param("kernel", uniform_fan_in, (x.shape[-1], self.num_classes), dtype)
        return x @ kernel + self.param("bias", bias_init(x.shape[-1]), (self.num_classes,), dtype)

    def macs(self, x, y) -> tuple[int, int]:
        """(binary, float) multiply-accumulates of one image."""
        return 0, x.shape[-1] * self.num_classes
