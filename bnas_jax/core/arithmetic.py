"""`Arithmetic`: number types, and axes of devices, for all layers of a network."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from bnas_jax.core.checks import whole
from bnas_jax.core.errors import UserError, shown


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

    Raises `UserError` for a type that is not of floats, and for `bn_examples` below 1.

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

    def __post_init__(self):
        for name in ("dtype", "conv_dtype", "activations"):
            value = getattr(self, name)
            # Only these two have a default that depends on another field.
            if value is None and name != "dtype":
                continue
            if not _is_floating(value):
                raise UserError(
                    f"{name} must be a type of floats such as jax.numpy.float32, got "
                    f"{shown(value)}"
                )
        if self.bn_examples is not None:
            whole("bn_examples", self.bn_examples)

    def between_layers(self, x):
        """x, the output of a layer, converted to the type `activations`."""
        return x.astype(self.activations or self.dtype)


def plain_form(model: Any) -> Any:
    """A network or supernet in the plain arithmetic, with the same variables.

    It is traced in about a third of the time.

    model: a Flax module. One without a field `arithmetic`, such as a user's module
        around a network, is returned as it is.
    """
    arithmetic = getattr(model, "arithmetic", None)
    if arithmetic is None:
        return model
    return model.clone(arithmetic=dataclasses.replace(arithmetic, plain=True))


def _is_floating(dtype: Any) -> bool:
    """Whether this is a type of floats, or the name of one."""
    # NumPy takes None for float64.
    if dtype is None:
        return False
    try:
        return bool(jnp.issubdtype(jnp.dtype(dtype), jnp.floating))
    except TypeError:
        return False
