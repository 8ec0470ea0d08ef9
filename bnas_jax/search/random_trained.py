"""Random search by training: the best of a few random cells.

Each cell is trained for a few epochs from fresh weights. It is the random baseline of
DARTS (arXiv 1806.09055, Table 1), whose authors trained 24 cells for 100 epochs each.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from bnas_jax.core.alphas import Alphas
from bnas_jax.core.checks import positive
from bnas_jax.core.genotype import Genotype
from bnas_jax.core.layers import learnable_share
from bnas_jax.search.random import genotype_of, sample
from bnas_jax.search.searcher import TRAIN, WEIGHTS, Progress, Searcher, Stage


@dataclasses.dataclass(frozen=True)
class RandomTrained(Searcher):
    """Trains random cells one after another, and validates each after its training.

    alpha encodes the cell that is trained: the mixture weights that `random.sample`
    draws, 1 at the layer types of the cell and 0 elsewhere. No step updates alpha; at
    each restart it is drawn anew.

    candidate_epochs: the number of epochs that a cell is trained for. A search of
        `num_epochs` trains num_epochs / candidate_epochs cells, all from the same first
        weights, each with the whole schedule of the learning rate.
    """

    candidate_epochs: int = 5

    stages: ClassVar[tuple[Stage, ...]] = (
        Stage(batches=(TRAIN,), moves=frozenset({WEIGHTS})),
    )
    one_layer: ClassVar[bool] = True

    def __post_init__(self):
        positive("config.searcher", self, "candidate_epochs")

    @property
    def restart_epochs(self) -> int:
        """How many epochs a cell is trained for."""
        return self.candidate_epochs

    def init(self, key, dtype=jnp.float32) -> dict[str, jax.Array]:
        """The mixture weights of a random cell, in the shapes of alpha."""
        drawn = sample(key, len(self.layer_types))
        return {name: drawn[name].astype(dtype) for name in self.searched}

    def weights(
        self, alphas: Alphas, key, progress: Progress | None
    ) -> dict[str, jax.Array]:
        """The mixture weights of the cell: alpha itself, without a softmax."""
        del key, progress
        return dict(alphas)

    def derive(self, alphas: Alphas) -> Genotype:
        """The genotype of the cell that was trained."""
        return genotype_of(alphas, self.layer_types)

    def record(self, alphas: Alphas) -> dict:
        """The genotype of the trained cell, and its share of learnable layers."""
        genotype = self.derive(alphas)
        return {
            "learnable_share": learnable_share(genotype),
            "genotype": genotype.to_dict(),
        }
