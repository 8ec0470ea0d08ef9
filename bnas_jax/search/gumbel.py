"""The Gumbel softmax (arXiv 1611.01144, 1611.00712).

It draws samples of categorical variables that have a gradient with respect to the
logits.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

# Logits are divided by the temperature, and much smaller values are 0 in float32.
LEAST_TEMPERATURE = 1e-6


def draw(key, logits: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Gumbel noise in the shapes of the logits.

    logits: {"normal", "reduce"}, or only {"normal"}, (14, layer types) each.
    """
    # The keys follow the names, so that the order of the dictionary does not matter.
    names = sorted(logits)
    keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))

    noise = {}
    for name, value in logits.items():
        shape, dtype = value.shape, value.dtype
        noise[name] = jax.random.gumbel(keys[name], shape=shape, dtype=dtype)
    return noise


def soft(logits, noise, temperature) -> jax.Array:
    """softmax((logits + noise) / temperature) over the layer types.

    logits, noise: (14, layer types).
    temperature: a scalar.
    """
    return jax.nn.softmax((logits + noise) / temperature, axis=-1)


def hard(logits, noise, temperature) -> tuple[jax.Array, jax.Array]:
    """(a one-hot sample with the gradient of the softmax, the same without gradient).

    Let p be `soft` of log_softmax(logits), and the one-hot be 1 at the largest p. The
    sample is one-hot + p - stop_gradient(p): its values are 0 and 1, its gradient is
    that of p (straight through).

    logits, noise: (14, layer types), as both results.
    temperature: a scalar.
    """
    log_p = jax.nn.log_softmax(logits, axis=-1)
    p = soft(log_p, noise, temperature=temperature)
    chosen = one_hot(p)
    # Up to rounding its value is the one-hot; its gradient is that of p.
    straight_through = chosen + p - jax.lax.stop_gradient(p)
    return straight_through, chosen


def one_hot(p) -> jax.Array:
    """1 at each row's largest value (the first of equals), else 0, in p's shape."""
    largest = jnp.argmax(p, axis=-1)
    return jax.nn.one_hot(largest, p.shape[-1], dtype=p.dtype)
