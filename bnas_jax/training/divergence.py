"""Notes in each step how large the gradients are, so that a run that diverges can name the layer where it began."""

import math
import re

import jax
import jax.numpy as jnp
from flax import struct


class Guard(struct.PyTreeNode):
    """step, leaf: the first step with a gradient that is not finite and the parameter it belongs to, -1 while there is none.
    sizes: (parameters,) the largest magnitude in each one's gradient in the last step, float32."""

    step: jax.Array
    leaf: jax.Array
    sizes: jax.Array

    @classmethod
    def create(cls, params) -> "Guard":
        none = jnp.full((), -1, jnp.int32)
        return cls(none, none, jnp.zeros((len(jax.tree.leaves(params)),), jnp.float32))


def watch(guard: Guard, grads, step) -> Guard:
    """The guard after `step`, whose gradients these are.

    Where some are not finite, the one nearest to the loss went first, as gradients flow from there; where all are, the
    forward pass broke, and the one that was largest the step before is named.
    """
    sizes = jnp.stack([jnp.max(jnp.abs(g)).astype(jnp.float32) for g in jax.tree.leaves(grads)])
    broken = jnp.logical_not(jnp.isfinite(sizes))
    nearest = jnp.argmax(jnp.where(broken, jnp.array(_depths(grads)), -2))
    leaf = jnp.where(jnp.all(broken), jnp.argmax(guard.sizes), nearest).astype(jnp.int32)
    first = jnp.any(broken) & (guard.step < 0)
    return Guard(jnp.where(first, step, guard.step), jnp.where(first, leaf, guard.leaf), sizes)


def first_step(guard: Guard | None) -> int | None:
    """The first step whose gradient was not finite; None where there was none, or nothing is known."""
    return None if guard is None or int(guard.step) < 0 else int(guard.step)


def describe(guard: Guard | None, params) -> str:
    """Where it began, as part of a sentence; empty where nothing is known."""
    if guard is None:
        return ""
    names = [
        "/".join(key.key for key in path) for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]
    if int(guard.step) >= 0:
        return f"; the gradient of {names[int(guard.leaf)]} was the first to go, at step {int(guard.step)}"
    largest = int(jnp.argmax(guard.sizes))
    return f"; the largest gradient is that of {names[largest]}, {float(guard.sizes[largest]):.3g}"


def _depths(params) -> list[float]:
    """How late in the network each parameter comes: stem, then cells by their number, then the rest."""

    def depth(name: str) -> float:
        number = re.fullmatch(r"cell(\d+)", name)
        return float(number[1]) if number else -1 if name == "stem" else math.inf

    return [depth(path[0].key) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
