"""The Gumbel softmax (arXiv 1611.01144, 1611.00712).

Samples of categorical variables that have a gradient.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

# Far smaller ones are 0 in float32, and logits are divided by the temperature.
LEAST_TEMPERATURE = 1e-6


def draw(key, logits: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Gumbel noise in the shapes of the logits.

    logits: {"normal", "reduce"}, or {"normal"} alone, (14, layer types) each.
    """
    # Each cell has its key by its name, so that the order of the dictionary does not
    # matter.
    names = sorted(logits)
    keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))

    noise = {}
    for name, value in logits.items():
        shape, dtype = value.shape, value.dtype
        noise[name] = jax.random.gumbel(keys[name], shape=shape, dtype=dtype)
    return noise


def soft(logits, noise, temperature) -> jax.Array:
    """softmax((logits + noise) / temperature) over the layer types.

    All but the temperature, a scalar, are (14, layer types).
    """
    return jax.nn.softmax((logits + noise) / temperature, axis=-1)


def hard(logits, noise, temperature) -> tuple[jax.Array, jax.Array]:
    """(a one-hot sample with a soft gradient, the one-hot itself).

    With p = `soft` of log_softmax(logits), and the one-hot at the largest p, the sample
    is one-hot + p - stop_gradient(p): ones and zeros, with the gradient of p. All but
    the temperature, a scalar, are (14, layer types).
    """
    log_p = jax.nn.log_softmax(logits, axis=-1)
    p = soft(log_p, noise, temperature=temperature)
    chosen = one_hot(p)
    # Its value is the one-hot but for rounding, its gradient that of p.
    straight_through = chosen + p - jax.lax.stop_gradient(p)
    return straight_through, chosen


def one_hot(p) -> jax.Array:
    """1 at each row's largest value, the first of equals."""
    largest = jnp.argmax(p, axis=-1)
    return jax.nn.one_hot(largest, p.shape[-1], dtype=p.dtype)
