"""Losses and hits of logits, for each example."""

import jax
import jax.numpy as jnp


def cross_entropy(
    logits: jax.Array, labels: jax.Array, smoothing: float = 0.0
) -> jax.Array:
    """Cross-entropy with targets (1 - smoothing) * onehot + smoothing / classes.

    logits: (N, classes); labels: (N,) integers; returns (N,).
    """
    log_p = jax.nn.log_softmax(logits)  # [N, classes]
    picked = jnp.take_along_axis(log_p, labels[:, None], axis=-1)  # [N, 1]
    hard = -picked[:, 0]
    # The mean over the classes is the cross-entropy with a uniform target.
    return (1 - smoothing) * hard - smoothing * jnp.mean(log_p, axis=-1)


def soft_cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Cross-entropy with probabilities of all classes. logits, targets: (N, classes);
    returns (N,).
    """
    return -jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1)


def hits(logits: jax.Array, labels: jax.Array, k: int = 1) -> jax.Array:
    """1 where the label is among the k classes of the highest scores, else 0.

    Shapes as `cross_entropy`.

    Of equal scores the first is the higher, as in argmax, so that a dead network has no
    hits for free. NaN is a miss.
    """
    score = jnp.take_along_axis(logits, labels[:, None], axis=-1)  # [N, 1]
    classes = jnp.arange(logits.shape[-1])
    first = classes < labels[:, None]  # [N, classes]
    # The classes that come before the label: `not <=` instead of `>`, which a NaN would
    # pass.
    before = jnp.logical_not(logits <= score) | ((logits == score) & first)
    higher = jnp.sum(before, axis=-1)  # [N]
    return (higher < k).astype(logits.dtype)
