"""Losses and hits of logits, for each example."""

import jax
import jax.numpy as jnp


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """Cross-entropy with targets (1 - smoothing) * onehot + smoothing / classes.

    logits: (N, classes); labels: (N,) whole numbers; returns (N,).
    """
    log_p = jax.nn.log_softmax(logits)
    hard = -jnp.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]
    return (1 - smoothing) * hard - smoothing * jnp.mean(log_p, axis=-1)


def hits(logits: jax.Array, labels: jax.Array, k: int = 1) -> jax.Array:
    """1 where the label is among the k classes that score highest, else 0. Shapes as `cross_entropy`.

    Of equal scores the first is the higher, as in argmax, so that a dead network has no hits for free. NaN is a miss.
    """
    score = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    first = jnp.arange(logits.shape[-1]) < labels[:, None]
    higher = jnp.sum(jnp.logical_not(logits <= score) | ((logits == score) & first), axis=-1)
    return (higher < k).astype(logits.dtype)
