"""GDAS (arXiv 1910.04465): each step draws one layer type for each edge.

The draws are hard Gumbel samples with a soft gradient. Formulas and numbers are those
of its authors' code for the search space of DARTS (docs/searchers.md).
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bnas_jax.core import alphas as alphas_lib
from bnas_jax.core.alphas import Alphas
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import (
    EDGES,
    INPUTS,
    NODES,
    ZEROISE,
    Cell,
    Genotype,
    arriving,
    of_cells,
)
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
    """GDAS's search.

    Each step draws one layer type for each edge, by a hard Gumbel softmax that has the
    gradient of the soft one. The weight step comes first, then the alpha step.

    Only the chosen layer of an edge runs where the supernet has edges="chosen"; else
    all run, the others times 0. As in its authors' code, the weights of layers that
    were never chosen should not decay: that needs an optimizer with decayed="moved",
    which the command `search` uses.

    tau_max, tau_min: the temperature of the first and of the last epoch, linear between
        them.
    clip_norm: the norm to which the gradients of weights and alpha, taken together, are
        clipped before the weights move; None does not clip.
    other_scalars: add the weights of the layer types that were not chosen to an edge's
        output, as its authors' code for another search space does: they are 0, but give
        all of alpha a gradient.
    """

    tau_max: float = 10.0
    tau_min: float = 0.1
    clip_norm: float | None = 5.0
    other_scalars: bool = False

    # Weights first, as in its authors' code. The gradient of alpha counts in the norm
    # that their gradients are clipped to.
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
        """One-hot weights of the drawn layer types.

        The gradient is that of the softmax at the chosen layer type alone, as no other
        runs.
        """
        # An evaluation takes the most probable layer type.
        if key is None or progress is None:
            return {name: gumbel.one_hot(alpha) for name, alpha in alphas.items()}

        drawn = self._draw(alphas, key=key, progress=progress)
        return {name: hard * chosen for name, (hard, chosen) in drawn.items()}

    def scalars(self, alphas: Alphas, key, progress: Progress):
        """For each edge, the sum of the weights of the types not chosen, which is 0."""
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
        """(samples with a soft gradient, one-hot) of each cell, see `gumbel.hard`.

        The same key gives the same samples, so that `scalars` belong to `weights`.
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
        # This form gives exactly tau_min at the end.
        return self.tau_min + (self.tau_max - self.tau_min) * (1 - share)

    def clip(self, gradients):
        """Both gradients together in the weight step; the alpha step is not clipped."""
        if self.clip_norm is None or WEIGHTS not in gradients:
            return gradients

        # min(1, clip_norm / norm), without a division by 0 where all gradients are 0.
        size = optax.tree_utils.tree_norm(gradients)
        divisor = jnp.maximum(size, jnp.finfo(size.dtype).tiny)
        factor = jnp.minimum(1.0, self.clip_norm / divisor)
        return jax.tree.map(
            lambda gradient: gradient * factor.astype(gradient.dtype), gradients
        )

    def derive(self, alphas: Alphas) -> Genotype:
        """The genotype of the probabilities of all layer types.

        The weights of an evaluation are 0 but for one.
        """
        cells = {}
        for name, value in alphas_lib.relax(alphas).items():
            cells[name] = self.derive_cell(np.asarray(value))
        return of_cells(cells)

    def derive_cell(self, weights: np.ndarray) -> Cell:
        """The top two (layer type, input) pairs of each node, without Zeroise.

        Both may have the same input.
        """
        return top_pairs(weights, self.layer_types)


def top_pairs(weights: np.ndarray, layer_types: tuple[str, ...]) -> Cell:
    """A cell of each node's two largest entries, whatever their edge.

    Of equal entries the first is taken, and Zeroise is left out.

    weights: (14, layer types).
    """
    nodes = []
    for node in range(INPUTS, INPUTS + NODES):
        # (strength, (layer type, input)) of all layers that lead into the node.
        candidates = []
        for edge in arriving(node):
            source, _ = EDGES[edge]
            for column, name in enumerate(layer_types):
                if name == ZEROISE:
                    continue
                strength = float(weights[edge, column])
                candidates.append((strength, (name, source)))

        # The two strongest. The sort is stable, so that the first of equals stays
        # first.
        candidates.sort(key=lambda candidate: -candidate[0])
        pairs = [pair for _, pair in candidates]
        nodes.append(tuple(pairs[:2]))
    return tuple(nodes)
