"""How numbers are computed, for all layers of a network."""

import dataclasses
from typing import Any

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """Types of numbers, and the mapped axes of several devices.

    dtype: of parameters, batch statistics and losses: float32, or float64 for exact
        checks.
    conv_dtype: the type that convolutions round their inputs and kernels to, such as
        bfloat16. They accumulate in `dtype`. None is `dtype`. On NVIDIA's GPUs their
        results are rounded to it, too.
    activations: of the tensors between layers, such as bfloat16. Within, layers compute
        in `dtype`. None is `dtype`, and what a supernet needs.
    bn_axis: the mapped axis over which batch statistics are taken. None keeps them per
        device.
    bn_examples: how many examples are normalised together. They are neighbours in the
        batch over all devices. None is all of them.
    batch_axis: the mapped axis over which the batch is divided. Random numbers that are
        drawn for an example are then the same on any number of devices.
    plain: True uses plain JAX operations and JAX's own gradients. They are the
        reference for the fast ones, and second derivatives need them. Signs, which
        have no gradient of their own, and float convolutions with a `conv_dtype` keep
        a custom one. A custom gradient has no forward mode: in place of `jax.hessian`
        write `jax.jacrev(jax.grad(f))`, in place of `jax.jvp` use `jax.vjp`.

    Convolutions that multiply in bfloat16 and sum in float32:

    >>> arithmetic = bnas.Arithmetic(conv_dtype=jax.numpy.bfloat16)
    >>> sizes = {"num_cells": 5, "channels": 4, "num_classes": 10}
    >>> supernet = bnas.Supernet(**sizes, arithmetic=arithmetic)
    """

    dtype: Any = jnp.float32
    conv_dtype: Any = None
    activations: Any = None
    bn_axis: str | None = None
    bn_examples: int | None = None
    batch_axis: str | None = None
    plain: bool = False

    def between_layers(self, x):
        """x, the output of a layer, in the dtype of `activations`."""
        return x.astype(self.activations or self.dtype)
