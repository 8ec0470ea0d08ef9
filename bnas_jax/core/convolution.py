"""`Convolution`: the module of a scheme's convolution, which owns the weights."""

from typing import Any

import flax.linen as nn
import numpy as np

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.initializers import bias_init, uniform_fan_in
from bnas_jax.core.ops.geometry import Geometry, Pair
from bnas_jax.core.schemes.activations import activated
from bnas_jax.core.schemes.scheme import Scheme

# A packed network has this collection of variables in place of latent weights; see
# `Convolution.binarized`.
PACKED = "packed"


class Convolution(nn.Module):
    """A scheme's convolution without batch norm, (N, H, W, C) to (N, H', W', features).

    It computes `Scheme.convolve` or `Scheme.convolve_float`. The weights are the
    parameter `latent` if they are binarized, and `kernel` if they stay float. The
    optimizer applies the rule `Scheme.latents` to the parameters named `latent`.

    binary_weights: False keeps the weights float.
    binary_input: False keeps the activations float.
    activation: whether the scheme's activation follows the sums and the bias.
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

        # The scheme makes the parameter `latent` or `kernel`, and others if it needs
        # them.
        if self.has_latent:
            y = self.scheme.convolve(self, x)
        else:
            y = self.scheme.convolve_float(self, x)  # (N, H', W', features)
        if self.bias:
            fan_in = int(np.prod(self.kernel_shape(x)[:-1]))  # kh * kw * C / groups
            init = bias_init(fan_in)
            y = y + self.param("bias", init, (self.features,), self.arithmetic.dtype)

        # The scheme has already applied its activation to the sums, unless that is a
        # PReLU or a bias comes first.
        if self.activation and (self.bias or self.scheme.activation == "prelu"):
            y = activated(y, self.scheme.activation, arithmetic=self.arithmetic)
        return self.arithmetic.between_layers(y)

    def binarized(self, x) -> tuple:
        """(signs, operands) of the weights, as `Scheme.kernel` gives them.

        In a packed network they are stored variables. Call it within `__call__`.
        """
        if self.has_variable(PACKED, "kernel"):
            signs: Any = self.get_variable(PACKED, "kernel")
            operands: Any = self.get_variable(PACKED, "operands")
            return signs, operands
        return self.scheme.kernel(self, x)

    def float_kernel(self, x, features: int | None = None):
        """The float kernel, (kh, kw, C / groups, features).

        Call it within `__call__`.

        features: None is the number of output channels.
        """
        return self._kernel("kernel", x, features=features)

    def latent(self, x, features: int | None = None):
        """The latent weights, (kh, kw, C / groups, features).

        Call it within `__call__`.

        features: None is the number of output channels.
        """
        return self._kernel("latent", x, features=features)

    def _kernel(self, name: str, x, *, features: int | None):
        """The parameter `name`, (kh, kw, C / groups, features)."""
        shape = self.kernel_shape(x)
        if features is not None:
            shape = (*shape[:-1], features)
        return self.param(name, uniform_fan_in, shape, self.arithmetic.dtype)

    def kernel_shape(self, x) -> tuple[int, int, int, int]:
        """The shape of a kernel for x: (kh, kw, C / groups, features)."""
        return (*self.kernel, x.shape[-1] // self.geometry.groups, self.features)

    @property
    def activates_sums(self) -> bool:
        """Whether the scheme's activation follows the sums directly.

        With a bias, the activation follows the bias instead.
        """
        return self.activation and not self.bias

    @property
    def has_latent(self) -> bool:
        """Whether the weights are binarized.

        If so, the float parameter `latent` takes the place of `kernel`.
        """
        return self.binary_weights and self.scheme.binary_weights

    def output_shape(self, x) -> tuple[int, ...]:
        """The shape of the output for x: (N, H', W', features)."""
        size = self.geometry.output_size(x.shape[1:3], self.kernel)
        return (x.shape[0], *size, self.features)

    def macs(self, x, y) -> tuple[int, int]:
        """(binary, float) multiply-accumulates of one image."""
        # Each output value is a sum of as many products as its kernel has weights.
        _, height, width, _ = y.shape
        taps = int(np.prod(self.kernel))
        inputs = x.shape[-1] // self.geometry.groups
        count = height * width * self.features * taps * inputs
        # A product is binary only if both factors are.
        if self.has_latent and self.binary_input:
            return count, 0
        return 0, count
