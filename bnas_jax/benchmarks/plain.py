"""The step as one writes it first, to compare ours with: the same function, in none of the forms that make it fast.

In the search every edge is on its own (`plain_supernet`). In both tasks a 1x1 convolution is a convolution like any other, and
so is one with strides and holes; signs are multiplied as floats, not counted; batch norm and max pooling are differentiated by
JAX; nothing is held in memory on purpose; the step is one program, compiled with XLA's own options. What decides about numbers
stays ours: signs are multiplied first and beta afterwards, or ReLU's gradient at sums of 0 would hang on rounding. So does
what is set for the whole process, such as the heap of `training.memory`.
"""

import contextlib
from collections.abc import Iterator
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp

from bnas_jax.benchmarks.plain_supernet import PlainSupernet
from bnas_jax.core import cell, convolution, layers
from bnas_jax.core.errors import UserError
from bnas_jax.runtime import devices
from bnas_jax.training import search
from bnas_jax.training.program import Program


@contextlib.contextmanager
def forms() -> Iterator[None]:
    """Puts the plain forms in place of ours, for everything that is built, traced and compiled inside.

    Whatever is traced inside stays plain when it is called outside, and the other way round. So trace a step of ours outside,
    and use nothing inside that JAX remembers from outside: of ours that is `supernet.mixed_edges` alone, which `PlainSupernet`
    does without.
    """
    with (
        mock.patch.object(convolution, "_conv", convolution.general_conv),
        mock.patch.object(convolution, "can_count", lambda *arguments: False),
        mock.patch.object(layers, "normalize", _normalize),
        mock.patch.dict(layers.LAYERS, max_pool_3x3=layers.LayerType(function=_max_pool)),
        mock.patch.object(cell, "hold", lambda x: x),
        mock.patch.object(search, "Supernet", PlainSupernet),
        mock.patch.object(devices, "_step_options", lambda: None),
    ):
        yield


def in_one(program: Program) -> Program:
    """The same steps, of a single stage."""

    def step(state, feeds):
        for stage, feed in zip(program.stages, feeds, strict=True):
            state = stage(state, feed)
        return state

    return program._replace(stages=(step,), feeds=lambda number: (program.feeds(number),))


def _normalize(x, axis_name: str | None = None, examples: int | None = None):
    if examples:
        if len(x) % examples:
            part = f"{len(x)} examples of a microbatch on a device"
            raise UserError(f"--against=plain normalises groups of the {part}: write a config.bn_examples that divides them")
        groups = x.reshape(-1, examples, *x.shape[1:])
        y, mean, var = jax.vmap(_normalize)(groups)
        return y.reshape(x.shape), mean.mean(0), var.mean(0)
    mean = _batch_mean(x, axis_name)
    var = _batch_mean(jnp.square(x - mean), axis_name)
    return (x - mean) * jax.lax.rsqrt(var + layers.BN_EPSILON), mean, var


def _batch_mean(x, axis_name):
    mean = jnp.mean(x, axis=(0, 1, 2))
    return jax.lax.pmean(mean, axis_name) if axis_name else mean


def _max_pool(x, stride):
    return nn.max_pool(x, (3, 3), (stride, stride), ((1, 1), (1, 1)))
