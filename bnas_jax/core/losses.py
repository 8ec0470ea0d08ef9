"""Losses and hits of each example, from logits.

`LOSSES` is the table of the losses that a training can have.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

# (logits (N, classes), labels (N,), the setting `label_smoothing`) -> losses (N,).
Loss = Callable[[jax.Array, jax.Array, float], jax.Array]


def cross_entropy(
    logits: jax.Array, labels: jax.Array, smoothing: float = 0.0
) -> jax.Array:
    """Cross-entropy with targets (1 - smoothing) * onehot + smoothing / classes.

    logits: (N, classes).
    labels: (N,), integers.

    Returns (N,), with NaN for a label that is no class.
    """
    log_p = jax.nn.log_softmax(logits)  # (N, classes)
    hard = -_of_label(log_p, labels)[:, 0]
    # The mean over the classes is the cross-entropy with a uniform target.
    return (1 - smoothing) * hard - smoothing * jnp.mean(log_p, axis=-1)


# By the values of `config.optimizer.loss`. A new loss is a new entry.
LOSSES: dict[str, Loss] = {"cross_entropy": cross_entropy}


def soft_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Cross-entropy with target probabilities.

    logits, targets: (N, classes).

    Returns (N,).
    """
    log_p = jax.nn.log_softmax(logits)  # (N, classes)
    return -jnp.sum(targets * log_p, axis=-1)


def hits(logits: jax.Array, labels: jax.Array, k: int = 1) -> jax.Array:
    """1 where the label is among the k classes with the highest logits, else 0.

    Of equal logits the first ranks higher, as in argmax. So a network with constant
    logits has only the hits of one class. NaN is a miss, and so is a label that is no
    class.

    logits: (N, classes).
    labels: (N,), integers.

    Returns (N,) in the number type of the logits.
    """
    score = _of_label(logits, labels)  # (N, 1)
    classes = jnp.arange(logits.shape[-1])  # (classes,)
    first = classes < labels[:, None]  # (N, classes)

    # The classes that rank before the label. With `>` a NaN would never rank before it.
    better = jnp.logical_not(logits <= score)  # (N, classes)
    tied = (logits == score) & first  # (N, classes)
    before = better | tied  # (N, classes)
    higher = jnp.sum(before, axis=-1)  # (N,)
    return (higher < k).astype(logits.dtype)


def _of_label(values: jax.Array, labels: jax.Array) -> jax.Array:
    """The value of each example's label, (N, 1); NaN for a label that is no class.

    values: (N, classes).
    """
    # As an index, -1 would be the last class. `fill` puts NaN where it is too large.
    index = jnp.where(labels < 0, values.shape[-1], labels)  # (N,)
    return jnp.take_along_axis(values, index[:, None], axis=-1, mode="fill")
