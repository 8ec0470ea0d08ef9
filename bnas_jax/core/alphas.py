"""Architecture parameters alpha: a pytree of their own, relaxed by a softmax (DARTS Eq. 2) and kept diverse (Eq. 5)."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from bnas_jax.core.genotype import EDGES

Alphas = Mapping[str, jax.Array]
# Which edges the entropy of Eq. (5) is the mean of.
ENTROPIES = ("all", "released")


def init(key, num_types: int, dtype=jnp.float32) -> dict[str, jax.Array]:
    """{"normal": (14, num_types), "reduce": (14, num_types)}, drawn from 1e-3 * N(0, 1) as in DARTS."""
    normal, reduce = jax.random.split(key)
    shape = (len(EDGES), num_types)
    return {
        "normal": 1e-3 * jax.random.normal(normal, shape, dtype),
        "reduce": 1e-3 * jax.random.normal(reduce, shape, dtype),
    }


def relax(alphas: Alphas) -> dict[str, jax.Array]:
    """Probabilities of the layer types on each edge."""
    return {name: jax.nn.softmax(value, axis=-1) for name, value in alphas.items()}


def entropy(alphas: Alphas, *, edges: str = "all") -> jax.Array:
    """H(alpha) of Eq. (5): the entropy in nats of each edge's probabilities, averaged over the edges of both cells, as
    far as they are searched.

    edges: `all`; or `released`, the authors' loop over the reduction cell, which adds its last edge fourteen times, so
    that its other edges have no term.
    """
    values = dict(alphas)
    if edges == "released" and "reduce" in values:
        values["reduce"] = jnp.broadcast_to(values["reduce"][-1:], values["reduce"].shape)
    log_p = jax.nn.log_softmax(jnp.concatenate([values[name] for name in sorted(values)]), axis=-1)
    return jnp.mean(-jnp.sum(jnp.exp(log_p) * log_p, axis=-1))


def diversity(alphas: Alphas, epoch, *, weight: float, tau: float, edges: str = "all") -> jax.Array:
    """The term that Eq. (5) adds to the search loss: -lambda * H(alpha) * exp(-epoch / tau). edges: see `entropy`."""
    return -weight * entropy(alphas, edges=edges) * jnp.exp(-epoch / tau)
