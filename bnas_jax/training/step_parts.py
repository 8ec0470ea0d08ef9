"""The parts that the steps of training and search share.

These are the checks of a batch, the mean over microbatches, and the statistics that a
state keeps of each step.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax
import jax
import jax.numpy as jnp

from bnas_jax.core.checks import whole
from bnas_jax.core.errors import UserError
from bnas_jax.training.divergence import watch
from bnas_jax.training.state import SearchState, TrainState

# The arrays of a batch by name, of JAX or of NumPy.
Batch = Mapping[str, Any]

# What Flax raises where a network does not find its variables, or in other shapes.
_OTHER_VARIABLES = (
    flax.errors.ScopeParamShapeError,
    flax.errors.ScopeParamNotFoundError,
    flax.errors.ScopeVariableNotFoundError,
    flax.errors.ScopeCollectionNotFound,
)


def check_lengths(step: Any) -> None:
    """Raises `UserError` for a number of epochs, steps or microbatches below 1.

    step: a `TrainStep` or `SearchStep`.
    """
    for name in ("num_epochs", "steps_per_epoch", "microbatches"):
        whole(name, getattr(step, name))


def check_state(state: Any, kind: type) -> None:
    """Raises `UserError` unless the state is of that kind.

    kind: `TrainState` or `SearchState`.
    """
    if not isinstance(state, kind):
        raise UserError(
            f"the state must be a {kind.__name__}, as step.init makes it, got a "
            f"{type(state).__name__}"
        )


def check_batch(batch: Any, *, parts: int) -> None:
    """Raises `UserError` for a batch of a wrong form, or that cannot be divided.

    Only shapes and types are checked, while a step is traced.

    batch: the argument of a step, see `TrainStep`; on several devices, that of one
        device.
    parts: the number of microbatches.
    """
    # A mapping of names to arrays.
    found = f"a {type(batch).__name__}"
    if isinstance(batch, Mapping):
        found = ", ".join(sorted(map(str, batch))) or "nothing"
    if not isinstance(batch, Mapping) or not {"image", "label"} <= set(batch):
        raise UserError(
            'a batch must be {"image": (N, H, W, C), "label": (N,)}, got ' + found
        )
    for name in ("image", "label", "targets"):
        if name in batch and not hasattr(batch[name], "shape"):
            kind = type(batch[name]).__name__
            raise UserError(f'batch["{name}"] must be an array, got a {kind}')

    # N images, which `parts` divides.
    images = batch["image"].shape
    if len(images) != 4 or 0 in images:
        raise UserError(
            f'batch["image"] must be (N, H, W, C), got {images}; one image is written '
            "image[None], images without channels images[..., None]"
        )
    number = images[0]
    if number % parts:
        raise UserError(
            f"a batch of {number} images cannot be divided into {parts} microbatches; "
            f"give each device a multiple of {parts}"
        )
    _check_answers(batch, number=number)


def _check_answers(batch: Mapping[str, Any], *, number: int) -> None:
    """Raises `UserError` for labels or targets of a wrong shape or type.

    number: the number of images.
    """
    labels = batch["label"]
    if labels.shape != (number,) or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise UserError(
            f'batch["label"] must be integers of the shape ({number},), the class of '
            f"each image, got {labels.dtype} of the shape {labels.shape}"
        )
    # `TrainStep` compares the number of classes with that of the logits.
    if "targets" in batch:
        targets = batch["targets"].shape
        if len(targets) != 2 or targets[0] != number:
            raise UserError(
                f'batch["targets"] must be ({number}, classes), got {targets}'
            )


@contextlib.contextmanager
def of_images(images: jax.Array) -> Iterator[None]:
    """Raises `UserError` if Flax finds parameters made for images of another shape.

    It raises it for those of another network, too.

    images: (N, H, W, C).
    """
    try:
        yield
    except _OTHER_VARIABLES:
        _, *shape = images.shape
        raise UserError(
            f"the state was made for other images than (H, W, C) = {tuple(shape)}, or "
            f"for another network; make it by step.init(image_shape={tuple(shape)})"
        ) from None


def accumulate(function: Callable, batch: Any, parts: int) -> Any:
    """The mean of `function(part, number)` over equal parts of a batch, one by one.

    Every part starts from the same running statistics, so that the mean of the updated
    statistics, which are among the results, is a single update.

    function: (part, number of the part) -> a tree of arrays.
    batch: a tree of arrays (N, ...), N divisible by `parts`.
    parts: the number of parts.
    """
    if parts == 1:
        return function(batch, 0)
    in_parts = lambda x: x.reshape(parts, -1, *x.shape[1:])
    divided = jax.tree.map(in_parts, batch)  # (parts, N / parts, ...)
    numbers = jnp.arange(parts)  # (parts,)

    # Start the sums at zero. The shapes of the result are found without computing it.
    first = jax.tree.map(lambda x: x[0], (divided, numbers))
    shapes = jax.eval_shape(function, *first)
    zero = lambda s: jnp.zeros(s.shape, s.dtype)
    zeros = jax.tree.map(zero, shapes)

    # A scan keeps the activations of one part at a time: this saves memory, which is
    # the purpose of microbatches.
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
    """The updated fields {"sums", "guard"} of a state after an update of the weights.

    "sums" are for the epoch's record, "guard" has the sizes of the gradients.

    step: a `TrainStep` or `SearchStep`.
    loss, correct: means over microbatches and devices.
    batch: this device's shard of the batch.
    """
    devices = 1
    if step.axis is not None:
        devices = jax.lax.axis_size(step.axis)
    examples = batch["label"].shape[0] * devices  # on all devices

    # `correct` is a mean of counts: convert it back to the total count.
    correct = jnp.round(correct * step.microbatches * devices)
    sums = state.sums.add(loss=loss, correct=correct, examples=examples)

    guard = state.guard
    if guard is not None:
        guard = watch(guard, grads=grads, step=state.step)
    return {"sums": sums, "guard": guard}
