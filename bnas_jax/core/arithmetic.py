"""How numbers are computed, for all layers of a network."""

import dataclasses
from typing import Any

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """Types of numbers, and the mapped axes of several devices.

    dtype: of parameters, batch statistics and losses: float32, or float64 for exact checks.
    conv_dtype: of the factors of products in convolutions, which accumulate in `dtype`, such as bfloat16; None is `dtype`.
        On NVIDIA's GPUs results are rounded to it, too.
    activations: type of what a convolution, a batch norm or a pooling hands on, and of sums of such; None is `dtype`. They
        compute in `dtype` within.
    bn_axis: the mapped axis over which batch statistics are taken; None keeps them per device.
    bn_examples: how many examples are normalised together, neighbours in the batch over all devices; None is all of them.
    batch_axis: the mapped axis over which the batch is divided; random numbers that are drawn for an example are then the
        same on any number of devices.
    plain: every operation as one writes it first, differentiated by JAX (but for float convolutions with a `conv_dtype`),
        to compare the fast forms with. Sums of signs are floats then, and have derivatives of any order.
    """

    dtype: Any = jnp.float32
    conv_dtype: Any = None
    activations: Any = None
    bn_axis: str | None = None
    bn_examples: int | None = None
    batch_axis: str | None = None
    plain: bool = False

    def between_layers(self, x):
        """What a layer hands on: x, rounded as `activations` says."""
        return x.astype(self.activations or self.dtype)
