"""The architecture parameters alpha: a pytree of their own, apart from the weights.

`relax` turns them into mixture weights by a softmax (DARTS Eq. 2). `diversity` is the
term of the search loss that keeps their entropy high (Eq. 5).
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from bnas_jax.core.checks import choice
from bnas_jax.core.genotype import EDGES

Alphas = Mapping[str, jax.Array]
# The edges that the entropy of Eq. (5) averages over, see `entropy`.
ENTROPIES = ("all", "released")


def init(key, num_types: int, dtype=jnp.float32) -> dict[str, jax.Array]:
    """Alphas drawn from 1e-3 * N(0, 1), as in DARTS.

    Returns {"normal": (14, num_types), "reduce": (14, num_types)}.
    """
    normal, reduce = jax.random.split(key)
    shape = (len(EDGES), num_types)
    return {
        "normal": 1e-3 * jax.random.normal(normal, shape=shape, dtype=dtype),
        "reduce": 1e-3 * jax.random.normal(reduce, shape=shape, dtype=dtype),
    }


def relax(alphas: Alphas) -> dict[str, jax.Array]:
    """The softmax over the layer types of each edge, in alpha's shapes (DARTS Eq. 2).

    >>> from bnas_jax.core.alphas import relax
    >>> relax({"normal": jax.numpy.zeros((14, 4))})["normal"][0].tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    return {name: jax.nn.softmax(value, axis=-1) for name, value in alphas.items()}


def entropy(alphas: Alphas, *, edges: str = "all") -> jax.Array:
    """H(alpha) of Eq. (5), a scalar in nats.

    It is the entropy of each edge's softmax, averaged over the edges of all cells that
    are searched: both, or the normal cell alone.

    edges: `all`, or `released` to reproduce the authors' loop over the reduction cell,
        which adds the entropy of the last edge fourteen times and of no other edge.

    Raises `UserError` for any other value of `edges`.

    >>> from bnas_jax.core.alphas import entropy
    >>> even = {"normal": jax.numpy.zeros((14, 7)), "reduce": jax.numpy.zeros((14, 7))}
    >>> round(float(entropy(even)), 4)  # the logarithm of 7
    1.9459
    """
    choice("edges", edges, choices=ENTROPIES)

    # The released loop reads the reduction cell's last edge instead of each edge.
    values = dict(alphas)
    if edges == "released" and "reduce" in values:
        reduce = values["reduce"]
        values["reduce"] = jnp.broadcast_to(reduce[-1:], shape=reduce.shape)

    # From log-probabilities: a probability that rounds to 0 adds 0 instead of NaN.
    logits = jnp.concatenate([values[name] for name in sorted(values)])  # (28, types)
    log_p = jax.nn.log_softmax(logits, axis=-1)
    of_edges = -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)  # (28,)
    return jnp.mean(of_edges)


def diversity(
    alphas: Alphas, epoch, *, weight: float, tau: float, edges: str = "all"
) -> jax.Array:
    """The term of Eq. (5) in the search loss: -lambda * H(alpha) * exp(-epoch / tau).

    epoch: from 0.
    weight: lambda.
    tau: in epochs.
    edges: see `entropy`.

    >>> from bnas_jax.core.alphas import diversity
    >>> even = {"normal": jax.numpy.zeros((14, 7)), "reduce": jax.numpy.zeros((14, 7))}
    >>> terms = [diversity(even, epoch, weight=1.0, tau=7.7) for epoch in (0, 10, 50)]
    >>> [round(float(term), 4) for term in terms]
    [-1.9459, -0.531, -0.0029]
    """
    mean_entropy = entropy(alphas, edges=edges)
    # JAX's strict promotion refuses to divide an integer by a float.
    fading = jnp.exp(-jnp.asarray(epoch, mean_entropy.dtype) / tau)
    return -weight * mean_entropy * fading
