"""`Arithmetic`: number types, and axes of devices, for all layers of a network."""

import dataclasses
from typing import Any

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """The number types of a network, and the mapped axes of several devices.

    dtype: the type of parameters, batch statistics and losses: float32, or float64 for
        exact checks.
    conv_dtype: the type, such as bfloat16, that convolutions round their inputs and
        kernels to; None is `dtype`. Products are summed in `dtype`; on NVIDIA GPUs the
        results are then rounded to `conv_dtype`.
    activations: the type of the tensors between layers, such as bfloat16; None is
        `dtype`, which a supernet needs. Layers compute in `dtype` in either case.
    bn_axis: the mapped axis over which batch norm takes its statistics. With None, each
        device has its own.
    bn_examples: the number of examples that are normalised together, consecutive ones
        in the batch over all devices; None is the whole batch.
    batch_axis: the mapped axis over which the batch is divided. With it, the random
        numbers drawn for an example do not depend on the number of devices.
    plain: True uses plain JAX operations and JAX's own gradients. They are the
        reference for the fast operations, and second derivatives need them. Only signs,
        whose true gradient is 0, and float convolutions with a `conv_dtype` keep a
        custom gradient, which has no forward mode: write `jax.jacrev(jax.grad(f))` in
        place of `jax.hessian(f)`, and `jax.vjp` in place of `jax.jvp`.

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
        """x, the output of a layer, converted to the type `activations`."""
        return x.astype(self.activations or self.dtype)
