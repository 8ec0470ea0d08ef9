"""GDAS (arXiv 1910.04465): one layer type an edge is drawn for each step, by hard
Gumbel samples with a soft gradient.

Formulas and numbers are those of its authors' code for the search space of DARTS
(docs/searchers.md).
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bnas_jax.core.alphas import Alphas
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import EDGES, INPUTS, NODES, ZEROISE, Cell, arriving
from bnas_jax.search import gumbel
from bnas_jax.search.searcher import (
    ALPHAS,
    TRAIN,
    VALID,
    WEIGHTS,
    Progress,
    Searcher,
    Stage,
    check_rates,
)


@dataclasses.dataclass(frozen=True)
class Gdas(Searcher):
    """GDAS's search: each step draws one layer type for each edge by a hard Gumbel
    softmax with the soft one's gradient; weights move first, then alpha.

    tau_max, tau_min: the temperature of the first and of the last epoch, linear between
    them.
    clip_norm: the norm to which the gradients of weights and alpha, taken together, are
    clipped before the weights move; None does not clip.
    other_scalars: add the weights of the layer types that were not chosen to an edge's
    output, as its authors' code for another search space does: they are 0, but give all
    of alpha a gradient.

    Only the chosen layer of an edge runs where the supernet has edges="chosen"; else
    all run, the others times 0. As in its code, weights that were never chosen should
    not decay: an optimizer with decayed="moved", which `search` uses.
    """

    tau_max: float = 10.0
    tau_min: float = 0.1
    clip_norm: float | None = 5.0
    other_scalars: bool = False

    # Weights first, as in its authors' code, with alpha's gradient for the norm of the
    # clipping.
    stages: ClassVar[tuple[Stage, ...]] = (
        Stage(batches=(TRAIN,), moves=frozenset({WEIGHTS}), beside=frozenset({ALPHAS})),
        Stage(batches=(VALID,), moves=frozenset({ALPHAS})),
    )
    decayed: ClassVar[str] = "moved"
    one_layer: ClassVar[bool] = True

    def __post_init__(self):
        check_rates(self, "tau_max", "tau_min", least=gumbel.LEAST_TEMPERATURE)
        if self.tau_min > self.tau_max:
            prefix = "config.searcher"
            raise UserError(
                f"{prefix}.tau_min={self.tau_min} must be at most "
                f"{prefix}.tau_max={self.tau_max}"
            )
        if self.clip_norm is not None:
            check_rates(self, "clip_norm")

    def weights(self, alphas: Alphas, key, progress: Progress | None):
        """One-hot, with the gradient of the softmax at the chosen layer type alone, as
        no other runs.
        """
        # In an evaluation the most probable layer type.
        if key is None or progress is None:
            return {name: gumbel.one_hot(alpha) for name, alpha in alphas.items()}
        drawn = self._draw(alphas, key=key, progress=progress)
        return {name: hard * chosen for name, (hard, chosen) in drawn.items()}

    def scalars(self, alphas: Alphas, key, progress: Progress):
        """The sum of the other weights of each edge."""
        if not self.other_scalars:
            return None
        drawn = self._draw(alphas, key=key, progress=progress)
        sums = {}
        for name, (hard, chosen) in drawn.items():
            others = hard * (1 - chosen)
            sums[name] = jnp.sum(others, axis=-1)
        return sums

    def _draw(
        self, alphas: Alphas, *, key, progress: Progress
    ) -> dict[str, tuple[jax.Array, jax.Array]]:
        """(hard samples with the gradient of the softmax, one-hot of what they chose),
        (14, layer types) each.

        Of the same key the same samples, so that `scalars` belong to `weights`.
        """
        noise = gumbel.draw(key, alphas)
        tau = self.temperature(progress)
        drawn = {}
        for name, alpha in alphas.items():
            # The weights keep alpha's type.
            of_dtype = tau.astype(alpha.dtype)
            drawn[name] = gumbel.hard(alpha, noise[name], temperature=of_dtype)
        return drawn

    def temperature(self, progress: Progress) -> jax.Array:
        """tau, linear from epoch to epoch."""
        # A search of a single epoch has tau_max.
        last = max(progress.num_epochs - 1, 1)
        share = jnp.minimum(progress.epoch / last, 1.0)
        # In this form exactly tau_min at the end.
        return self.tau_min + (self.tau_max - self.tau_min) * (1 - share)

    def clip(self, gradients):
        """Both together in the stage of the weights; the stage of alpha is not clipped."""
        if self.clip_norm is None or WEIGHTS not in gradients:
            return gradients
        size = optax.tree_utils.tree_norm(gradients)
        # No division by 0 where all gradients are.
        divisor = jnp.maximum(size, jnp.finfo(size.dtype).tiny)
        factor = jnp.minimum(1.0, self.clip_norm / divisor)
        return jax.tree.map(
            lambda gradient: gradient * factor.astype(gradient.dtype), gradients
        )

    def derive_cell(self, weights: np.ndarray) -> Cell:
        """Top two (layer type, input) pairs a node, Zeroise left out; both may have the
        same input.
        """
        return top_pairs(weights, self.layer_types)


def top_pairs(weights: np.ndarray, layer_types: tuple[str, ...]) -> Cell:
    """A cell from (14, layer types): each node's two largest entries, whatever their
    edge; the first of equals.
    """
    nodes = []
    for node in range(INPUTS, INPUTS + NODES):
        # (strength, (layer type, input)) of all that lead into the node.
        candidates = []
        for edge in arriving(node):
            source, _ = EDGES[edge]
            for column, name in enumerate(layer_types):
                if name == ZEROISE:
                    continue
                strength = float(weights[edge, column])
                candidates.append((strength, (name, source)))
        # Stable, so that the first of equals stays first.
        candidates.sort(key=lambda candidate: -candidate[0])
        pairs = [pair for _, pair in candidates]
        nodes.append(tuple(pairs[:2]))
    return tuple(nodes)
