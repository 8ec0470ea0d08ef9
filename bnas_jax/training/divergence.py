"""`Guard`: records the size of all gradients in each step.

From it, a run that diverges can name the layer where the divergence began.
"""

import math
import re

import jax
import jax.numpy as jnp
from flax import struct


class Guard(struct.PyTreeNode):
    """The sizes of a run's gradients, and the first one that was not finite.

    Parameters are numbered as in the flattened tree.

    step: the first step with a gradient that is not finite, -1 while there is none.
    leaf: the number of the parameter where it began, -1 while there is none.
    sizes: (parameters,), float32, the largest magnitude in the gradient of each
        parameter in the last step.
    """

    step: jax.Array
    leaf: jax.Array
    sizes: jax.Array

    @classmethod
    def create(cls, params) -> "Guard":
        """The guard of a new run."""
        # Two arrays, not one, as in `state.Sums.zeros`.
        step, leaf = (jnp.full((), -1, dtype=jnp.int32) for _ in range(2))
        count = len(jax.tree.leaves(params))
        return cls(step=step, leaf=leaf, sizes=jnp.zeros((count,), jnp.float32))


def watch(guard: Guard, grads, step) -> Guard:
    """The guard after a step.

    Gradients flow from the loss backwards. If some are not finite, the one nearest to
    the loss was the first. If none is finite, the forward pass was not finite either,
    and the parameter with the largest gradient in the previous step is the best guess.

    grads: the gradients of the step, a tree like the parameters.
    step: the number of the step.
    """
    # The size of each gradient, and whether it is not finite.
    largest = []
    for grad in jax.tree.leaves(grads):
        size = jnp.max(jnp.abs(grad))
        largest.append(size.astype(jnp.float32))
    sizes = jnp.stack(largest)  # (parameters,)
    broken = jnp.logical_not(jnp.isfinite(sizes))  # (parameters,)

    # The parameter where it began: the deepest one that is not finite (-2 is less than
    # any depth), or the one with the largest gradient in the previous step.
    depths = jnp.array(_depths(grads))  # (parameters,)
    nearest = jnp.argmax(jnp.where(broken, depths, -2))
    all_broken = jnp.all(broken)
    leaf = jnp.where(all_broken, jnp.argmax(guard.sizes), nearest)
    leaf = leaf.astype(jnp.int32)

    # Record only the first time: later ones are a consequence.
    first = jnp.any(broken) & (guard.step < 0)
    return Guard(
        step=jnp.where(first, step, guard.step),
        leaf=jnp.where(first, leaf, guard.leaf),
        sizes=sizes,
    )


def first_step(guard: Guard | None) -> int | None:
    """The first step with a gradient that was not finite; None if not known."""
    if guard is None or int(guard.step) < 0:
        return None
    return int(guard.step)


def describe(guard: Guard | None, params) -> str:
    """Where the divergence began, as part of a sentence; "" if not known.

    params: the tree of parameters, for their names.
    """
    if guard is None:
        return ""
    names = []
    for path, _ in jax.tree_util.tree_leaves_with_path(params):
        names.append("/".join(key.key for key in path))

    # Some gradient was not finite.
    step = int(guard.step)
    if step >= 0:
        name = names[int(guard.leaf)]
        return (
            f"; gradients stopped being finite at step {step}, probably that of {name} "
            "first"
        )

    # All gradients were finite, so that the largest one is the best guess.
    largest = int(jnp.argmax(guard.sizes))
    size = float(guard.sizes[largest])
    return f"; the largest gradient is that of {names[largest]}, {size:.3g}"


def _depths(params) -> list[float]:
    """The depth of each parameter in the network, by the name of its top module.

    The stem has -1. Modules with numbers come next, in the order of their numbers
    (cell2 before cell10, stage0_block1 before stage1_block0). All others, such as the
    classifier, have infinity.
    """
    # The top module of each parameter, and the numbers in its name.
    leaves = jax.tree_util.tree_leaves_with_path(params)
    parts = [path[0].key for path, _ in leaves]
    numbers = []
    for part in parts:
        digits = re.findall(r"\d+", part)
        numbers.append(tuple(int(number) for number in digits))
    order = sorted(set(numbers))

    # The rank of these numbers.
    depths: list[float] = []
    for part, number in zip(parts, numbers, strict=True):
        depth = math.inf
        if part == "stem":
            depth = -1
        elif number:
            depth = order.index(number)
        depths.append(depth)
    return depths
