"""GDAS (arXiv 1910.04465): each step draws one layer type for each edge.

The samples are one-hot Gumbel-softmax samples with the gradient of the softmax.
Formulas and numbers are those of the authors' code for the search space of DARTS
(docs/searchers.md).
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bnas_jax.core import alphas as alphas_lib
from bnas_jax.core.alphas import Alphas
from bnas_jax.core.checks import clipping, rates
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
)


@dataclasses.dataclass(frozen=True)
class Gdas(Searcher):
    """GDAS's search.

    Each step draws one layer type for each edge, as a one-hot Gumbel-softmax sample
    with the gradient of the softmax (`gumbel.hard`). The weight step comes first, then
    the alpha step.

    In a supernet with edges="chosen", only the chosen layer of each edge runs;
    otherwise all layers run, and the others are multiplied by 0. As in the authors'
    code, the weights of layers that were never chosen should not decay: that needs an
    optimizer with decayed="moved", which the command `search` uses.

    tau_max, tau_min: the temperature of the first and of the last epoch, linear between
        them.
    clip_norm: the largest joint norm of the gradients of weights and alpha in the
        weight step; None and infinity, which it becomes, do not clip.
    other_scalars: True adds to each edge's output the mixture weights of the layer
        types that were not chosen, as the authors' code for another search space does.
        These weights are 0, but give all of alpha a gradient.
    """

    tau_max: float = 10.0
    tau_min: float = 0.1
    clip_norm: float | None = 5.0
    other_scalars: bool = False

    # Weights first, as in the authors' code. The weight step also computes the gradient
    # of alpha, because it is part of the norm that `clip` limits.
    stages: ClassVar[tuple[Stage, ...]] = (
        Stage(batches=(TRAIN,), moves=frozenset({WEIGHTS}), beside=frozenset({ALPHAS})),
        Stage(batches=(VALID,), moves=frozenset({ALPHAS})),
    )
    decayed: ClassVar[str] = "moved"
    one_layer: ClassVar[bool] = True

    def __post_init__(self):
        prefix = "config.searcher"
        rates(prefix, self, "tau_max", "tau_min", least=gumbel.LEAST_TEMPERATURE)
        if self.tau_min > self.tau_max:
            raise UserError(
                f"{prefix}.tau_min={self.tau_min} must be at most "
                f"{prefix}.tau_max={self.tau_max}"
            )
        clipping(prefix, self)
        # In a config, None stands for the default.
        if self.clip_norm is None:
            object.__setattr__(self, "clip_norm", math.inf)

    def weights(self, alphas: Alphas, key, progress: Progress | None):
        """The one-hot mixture weights of the drawn layer types.

        Only the weight of the chosen layer type has a gradient, that of the softmax, as
        no other layer runs.
        """
        # An evaluation takes the most probable layer type.
        if key is None or progress is None:
            return {name: gumbel.one_hot(alpha) for name, alpha in alphas.items()}

        drawn = self._draw(alphas, key=key, progress=progress)
        return {name: hard * chosen for name, (hard, chosen) in drawn.items()}

    def scalars(self, alphas: Alphas, key, progress: Progress):
        """For each edge the sum of the weights of the other layer types, which is 0."""
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
        """(sample, one-hot) of each cell, see `gumbel.hard`.

        The same key gives the same sample, so that `scalars` belongs to `weights`.
        """
        noise = gumbel.draw(key, alphas)
        tau = self.temperature(progress)
        drawn = {}
        for name, alpha in alphas.items():
            # The weights have the dtype of alpha.
            of_dtype = tau.astype(alpha.dtype)
            drawn[name] = gumbel.hard(alpha, noise[name], temperature=of_dtype)
        return drawn

    def temperature(self, progress: Progress) -> jax.Array:
        """tau: linear from tau_max in the first epoch to tau_min in the last."""
        # A search of a single epoch has tau_max.
        last = max(progress.num_epochs - 1, 1)
        share = jnp.minimum(progress.epoch / last, 1.0)
        # In this form the last epoch has exactly tau_min.
        return self.tau_min + (self.tau_max - self.tau_min) * (1 - share)

    def clip(self, gradients):
        """The gradients, clipped to `clip_norm` in the weight step.

        The norm is that of both gradients together. The alpha step is not clipped.
        """
        limit = self.clip_norm or math.inf
        if limit == math.inf or WEIGHTS not in gradients:
            return gradients

        # min(1, clip_norm / norm), without a division by 0 where all gradients are 0.
        size = optax.tree_utils.tree_norm(gradients)
        divisor = jnp.maximum(size, jnp.finfo(size.dtype).tiny)
        factor = jnp.minimum(1.0, limit / divisor)
        return jax.tree.map(
            lambda gradient: gradient * factor.astype(gradient.dtype), gradients
        )

    def strengths(self, alphas: Alphas) -> dict[str, jax.Array]:
        """The probabilities of all layer types; `weights` would be one-hot."""
        return alphas_lib.relax(alphas)

    def derive_cell(self, weights: np.ndarray) -> Cell:
        """The top two (layer type, input) pairs of each node, without Zeroise.

        Both may have the same input.
        """
        return top_pairs(weights, self.layer_types)


def top_pairs(weights: np.ndarray, layer_types: tuple[str, ...]) -> Cell:
    """The cell of each node's two largest weights, which may be on the same edge.

    Of equal weights the first is taken. Zeroise is never taken.

    weights: (14, layer types).
    """
    nodes = []
    for node in range(INPUTS, INPUTS + NODES):
        # (weight, (layer type, input)) of all layers that enter the node.
        candidates = []
        for edge in arriving(node):
            source, _ = EDGES[edge]
            for column, name in enumerate(layer_types):
                if name == ZEROISE:
                    continue
                strength = float(weights[edge, column])
                candidates.append((strength, (name, source)))

        # The two largest. The sort is stable: of equal weights the first stays first.
        candidates.sort(key=lambda candidate: -candidate[0])
        pairs = [pair for _, pair in candidates]
        nodes.append(tuple(pairs[:2]))
    return tuple(nodes)
