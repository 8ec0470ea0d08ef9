"""GDAS (arXiv 1910.04465): one layer type an edge is drawn for each step, by hard Gumbel samples with a soft gradient.

Formulas and numbers are those of its authors' code for the search space of DARTS (methods.md C).
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bnas_jax.core.alphas import Alphas
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import EDGES, INPUTS, NODES, ZEROISE, Cell
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
    """tau_max, tau_min: the temperature of the first and of the last epoch, linear between them.

    clip_norm: to which the gradients at weights and alpha together are clipped before the weights move; None does not clip.
    other_scalars: add the weights of the layer types that were not chosen to an edge's output, as its authors' code for another
    search space does: they are 0, and give all of alpha a gradient.
    Weights that were never chosen do not decay.
    """

    tau_max: float = 10.0
    tau_min: float = 0.1
    clip_norm: float | None = 5.0
    other_scalars: bool = False

    stages: ClassVar[tuple[Stage, ...]] = (
        Stage((TRAIN,), frozenset({WEIGHTS}), beside=frozenset({ALPHAS})),
        Stage((VALID,), frozenset({ALPHAS})),
    )
    decayed: ClassVar[str] = "moved"
    one_layer: ClassVar[bool] = True

    def __post_init__(self):
        check_rates(self, "tau_max", "tau_min")
        if self.tau_min > self.tau_max:
            prefix = "config.searcher"
            raise UserError(
                f"{prefix}.tau_min={self.tau_min} must be at most {prefix}.tau_max={self.tau_max}"
            )
        if self.clip_norm is not None:
            check_rates(self, "clip_norm")

    def weights(self, alphas: Alphas, key, progress: Progress | None):
        """One-hot, with the gradient of the softmax at the chosen layer type alone, as no other runs."""
        if key is None or progress is None:
            return {name: gumbel.one_hot(alpha) for name, alpha in alphas.items()}
        drawn = self._draw(alphas, key, progress)
        return {name: hard * chosen for name, (hard, chosen) in drawn.items()}

    def scalars(self, alphas: Alphas, key, progress: Progress):
        """The sum of the other weights of each edge."""
        if not self.other_scalars:
            return None
        drawn = self._draw(alphas, key, progress)
        return {
            name: jnp.sum(hard * (1 - chosen), axis=-1) for name, (hard, chosen) in drawn.items()
        }

    def _draw(
        self, alphas: Alphas, key, progress: Progress
    ) -> dict[str, tuple[jax.Array, jax.Array]]:
        """The hard samples, with the gradient of the softmax, and what they chose."""
        noise, tau = gumbel.draw(key, alphas), self.temperature(progress)
        return {
            name: gumbel.hard(alpha, noise[name], tau.astype(alpha.dtype))
            for name, alpha in alphas.items()
        }

    def temperature(self, progress: Progress) -> jax.Array:
        """Linear from epoch to epoch."""
        share = jnp.minimum(progress.epoch / max(progress.num_epochs - 1, 1), 1.0)
        return self.tau_max - (self.tau_max - self.tau_min) * share

    def clip(self, gradients):
        """Both together in the pass of the weights; alpha's own pass is not clipped."""
        if self.clip_norm is None or WEIGHTS not in gradients:
            return gradients
        size = optax.tree_utils.tree_norm(gradients)
        factor = jnp.minimum(1.0, self.clip_norm / jnp.maximum(size, jnp.finfo(size.dtype).tiny))
        return jax.tree.map(lambda gradient: gradient * factor.astype(gradient.dtype), gradients)

    def derive_cell(self, weights: np.ndarray) -> Cell:
        """Top two (layer type, input) pairs a node, Zeroise left out; both may have the same input."""
        return top_pairs(weights, self.layer_types)


def top_pairs(weights: np.ndarray, layer_types: tuple[str, ...]) -> Cell:
    """A cell from (14, layer types): each node's two largest entries, whatever their edge; the first of equals."""
    nodes = []
    for node in range(INPUTS, INPUTS + NODES):
        pairs = [
            (float(weights[edge, column]), name, source)
            for edge, (source, target) in enumerate(EDGES)
            for column, name in enumerate(layer_types)
            if target == node and name != ZEROISE
        ]
        nodes.append(
            tuple(
                (name, source) for _, name, source in sorted(pairs, key=lambda pair: -pair[0])[:2]
            )
        )
    return tuple(nodes)
