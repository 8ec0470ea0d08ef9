"""Batch norm as a module, and how layers that read the same state share its work.

Images are NHWC.
"""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.ops.batch_norm import (
    EPSILON,
    MOMENTUM,
    batch_norm,
    initial_statistics,
    normalize_all,
)
from bnas_jax.core.schemes.scheme import BN_FIRST, Scheme


class Shared(NamedTuple):
    """A tensor that several layers read, and its normalised values.

    In training, batch norms that read the same tensor normalise it alike, so that the
    normalised values are computed once. Over several devices, they then need a single
    collective in the forward pass and one in the backward pass.

    value: (N, H, W, C).
    normalized: the result of `ops.batch_norm.normalize` with the default epsilon:
        (normalised values, mean, variance).
    arithmetic: the arithmetic in which `normalized` was computed.
    """

    value: jax.Array
    normalized: tuple
    arithmetic: Arithmetic

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of `value`."""
        return self.value.shape


def share(x, *, scheme: Scheme, arithmetic: Arithmetic, train: bool):
    """x as `Shared`, for layers that begin with a batch norm of x.

    It is x itself where batch norms cannot share: in an evaluation, in the plain
    arithmetic, and in schemes whose layers do not begin with a batch norm.
    """
    return share_all([x], scheme=scheme, arithmetic=arithmetic, train=train)[0]


def share_all(
    xs: Sequence, *, scheme: Scheme, arithmetic: Arithmetic, train: bool
) -> list:
    """`share` of each tensor, with one collective for all of them.

    xs: tensors, (N, H, W, C) each.
    """
    if not train or arithmetic.plain or scheme.order != BN_FIRST:
        return list(xs)
    normalized = normalize_all(tuple(xs), arithmetic.bn_axis, arithmetic.bn_examples)
    shared = []
    for x, of_x in zip(xs, normalized, strict=True):
        shared.append(Shared(value=x, normalized=of_x, arithmetic=arithmetic))
    return shared


def value_of(x):
    """The tensor itself, of x that may be `Shared`."""
    if isinstance(x, Shared):
        return x.value
    return x


class BatchNorm(nn.Module):
    """Batch normalization with running statistics: (N, H, W, C) to the same shape.

    affine: whether it has a learned scale and shift.
    epsilon, momentum: see `ops.batch_norm`.
    least_scale: None, or the lower bound that the scale is clipped to. The gradient
        passes as if the scale were not clipped (straight through).
    """

    arithmetic: Arithmetic
    affine: bool = True
    epsilon: float = EPSILON
    momentum: float = MOMENTUM
    least_scale: float | None = None

    @nn.compact
    def __call__(self, x, *, train: bool):
        """x: (N, H, W, C), or `Shared`."""
        # The normalised values, if they have been computed for several layers.
        normalized = None
        if isinstance(x, Shared):
            x, normalized, arithmetic = x
            # A batch norm with other settings than the shared ones computes its own.
            if self.epsilon != EPSILON or arithmetic != self.arithmetic:
                normalized = None
        dtype, channels = self.arithmetic.dtype, x.shape[-1]

        # Running statistics.
        start = initial_statistics((channels,), dtype)
        running = {}
        for name, value in start.items():
            running[name] = self.variable(
                "batch_stats", name, lambda value=value: value
            )
        values = {name: variable.value for name, variable in running.items()}

        # The normalised values, (N, H, W, C), and the statistics after this batch.
        y, new = batch_norm(
            x,
            values,
            arithmetic=self.arithmetic,
            train=train,
            epsilon=self.epsilon,
            momentum=self.momentum,
            normalized=normalized,
        )

        # `batch_stats` is immutable in an evaluation with the batch's statistics, which
        # must not store them.
        if (
            train
            and not self.is_initializing()
            and self.is_mutable_collection("batch_stats")
        ):
            for name, variable in running.items():
                variable.value = new[name]

        # Scale and shift, which start at 1 and 0.
        if self.affine:
            y = y * self._scale(channels)
            y = y + self.param("bias", nn.initializers.zeros, (channels,), dtype)
        return self.arithmetic.between_layers(y)

    def _scale(self, channels: int):
        """The scale, (C,), clipped to `least_scale` if there is one."""
        scale = self.param(
            "scale", nn.initializers.ones, (channels,), self.arithmetic.dtype
        )
        if self.least_scale is None:
            return scale
        # Forward it is the maximum; the gradient is that of the scale itself.
        missing = jnp.maximum(scale, self.least_scale) - scale
        return scale + jax.lax.stop_gradient(missing)
