"""What the steps of training and search share.

It is the mean over microbatches, and what a state notes of each step.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bnas_jax.training.divergence import watch
from bnas_jax.training.state import SearchState, TrainState

Batch = dict[str, jax.Array]


def accumulate(function: Callable, batch: Any, parts: int) -> Any:
    """The mean of `function(part, number)` over equal parts of a batch, one by one.

    Every part starts from the same running statistics, so that the mean of the new
    statistics among the results is one update of them.

    function: (part, number of the part) -> a tree of arrays.
    batch: a tree of arrays (N, ...), N divisible by `parts`.
    parts: their number.
    """
    if parts == 1:
        return function(batch, 0)
    in_parts = lambda x: x.reshape(parts, -1, *x.shape[1:])
    divided = jax.tree.map(in_parts, batch)  # (parts, N / parts, ...)
    numbers = jnp.arange(parts)  # (parts,)

    # Zeros to begin the sums with. The shapes of the result are found without computing
    # anything.
    first = jax.tree.map(lambda x: x[0], (divided, numbers))
    shapes = jax.eval_shape(function, *first)
    zero = lambda s: jnp.zeros(s.shape, s.dtype)
    zeros = jax.tree.map(zero, shapes)

    # A scan holds the activations of one part at a time: microbatches are there to save
    # this memory.
    def add(sums, numbered):
        return jax.tree.map(jnp.add, sums, function(*numbered)), None

    sums, _ = jax.lax.scan(add, init=zeros, xs=(divided, numbers))
    return jax.tree.map(lambda s: s / parts, sums)


def noted(
    step: Any,
    state: TrainState | SearchState,
    *,
    grads: Any,
    loss: jax.Array,
    correct: jax.Array,
    batch: Batch,
) -> dict[str, Any]:
    """What a state notes of an update of the weights: {"sums", "guard"}.

    "sums" are for the epoch's record, "guard" has the sizes of the gradients.

    step: a `TrainStep` or `SearchStep`.
    loss, correct: means over microbatches and devices.
    batch: that of this device.
    """
    devices = 1
    if step.axis is not None:
        devices = jax.lax.axis_size(step.axis)
    examples = batch["label"].shape[0] * devices  # on all devices

    # `correct` is a mean of counts: back to the count, which is whole.
    correct = jnp.round(correct * step.microbatches * devices)
    sums = state.sums.add(loss=loss, correct=correct, examples=examples)

    guard = state.guard
    if guard is not None:
        guard = watch(guard, grads=grads, step=state.step)
    return {"sums": sums, "guard": guard}
