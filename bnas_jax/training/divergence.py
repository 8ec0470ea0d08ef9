"""Notes in each step how large the gradients are, so that a run that diverges can name
the layer where it began.
"""

import math
import re

import jax
import jax.numpy as jnp
from flax import struct


class Guard(struct.PyTreeNode):
    """What is known of the gradients of a run; parameters by their number in the
    flattened tree.

    step, leaf: the first step with a gradient that is not finite, and the parameter
    where it began; -1 while there is none.
    sizes: (parameters,), the largest magnitude in each parameter's gradient in the last
    step, float32.
    """

    step: jax.Array
    leaf: jax.Array
    sizes: jax.Array

    @classmethod
    def create(cls, params) -> "Guard":
        """That of a new run."""
        # Two arrays, not one, as in `state.Sums.zeros`.
        step, leaf = (jnp.full((), -1, dtype=jnp.int32) for _ in range(2))
        count = len(jax.tree.leaves(params))
        return cls(step=step, leaf=leaf, sizes=jnp.zeros((count,), jnp.float32))


def watch(guard: Guard, grads, step) -> Guard:
    """The guard after `step`, with gradients `grads`.

    Where some are not finite, the one nearest to the loss went first, as gradients flow
    from there; where all are, the forward pass broke, and the one that was largest the
    step before is named.
    """
    largest = []
    for grad in jax.tree.leaves(grads):
        size = jnp.max(jnp.abs(grad))
        largest.append(size.astype(jnp.float32))
    sizes = jnp.stack(largest)  # [parameters]
    broken = jnp.logical_not(jnp.isfinite(sizes))  # [parameters]

    # The deepest of the broken ones; -2 is less than any depth.
    depths = jnp.array(_depths(grads))  # [parameters]
    nearest = jnp.argmax(jnp.where(broken, depths, -2))
    all_broken = jnp.all(broken)
    leaf = jnp.where(all_broken, jnp.argmax(guard.sizes), nearest)
    leaf = leaf.astype(jnp.int32)

    # Noted once: what breaks later is a consequence.
    first = jnp.any(broken) & (guard.step < 0)
    return Guard(
        step=jnp.where(first, step, guard.step),
        leaf=jnp.where(first, leaf, guard.leaf),
        sizes=sizes,
    )


def first_step(guard: Guard | None) -> int | None:
    """The first step whose gradient was not finite; None where there was none, or
    nothing is known.
    """
    if guard is None or int(guard.step) < 0:
        return None
    return int(guard.step)


def describe(guard: Guard | None, params) -> str:
    """Where the divergence began, as part of a sentence; empty where nothing is known."""
    if guard is None:
        return ""
    names = []
    for path, _ in jax.tree_util.tree_leaves_with_path(params):
        names.append("/".join(key.key for key in path))
    step = int(guard.step)
    if step >= 0:
        name = names[int(guard.leaf)]
        return f"; gradients stopped being finite at step {step}, probably that of {name} first"

    # All gradients were finite, so that the largest one is the best guess.
    largest = int(jnp.argmax(guard.sizes))
    size = float(guard.sizes[largest])
    return f"; the largest gradient is that of {names[largest]}, {size:.3g}"


def _depths(params) -> list[float]:
    """How late in the network each parameter comes, by the name of its part.

    First the stem (-1), then parts with numbers in their order (cell2 before cell10,
    stage0_block1 before stage1_block0), then the rest (infinity), such as the
    classifier.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    parts = [path[0].key for path, _ in leaves]
    numbers = [tuple(map(int, re.findall(r"\d+", part))) for part in parts]
    order = sorted(set(numbers))

    depths: list[float] = []
    for part, number in zip(parts, numbers, strict=True):
        depth = math.inf
        if part == "stem":
            depth = -1
        elif number:
            depth = order.index(number)
        depths.append(depth)
    return depths
