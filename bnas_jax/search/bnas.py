"""BNAS, the search of the paper.

It is the first-order bilevel search of DARTS, but a derived cell may have Zeroise
(Eq. 4), and an annealed regularizer keeps alpha diverse (Eq. 5).
"""

import dataclasses

import numpy as np

from bnas_jax.core import derivation
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import Cell
from bnas_jax.search.diversity import Diverse
from bnas_jax.search.searcher import DERIVATION


@dataclasses.dataclass(frozen=True)
class Bnas(Diverse):
    """The paper's search.

    gamma, keep_zeroise: see `derivation.derive` (Eq. 4, section 4.1.3).
    diversity, tau, entropy: see `Diverse` (Eq. 5).

    >>> searcher = bnas.Bnas(gamma=3.0)
    >>> alphas = searcher.init(jax.random.key(0))
    >>> genotype = searcher.derive(alphas)
    >>> len(genotype.normal), len(genotype.reduce)
    (4, 4)
    """

    # Only the derivation reads these two: another genotype can be derived from a
    # finished search.
    gamma: float = dataclasses.field(default=1.0, metadata=DERIVATION)
    keep_zeroise: bool = dataclasses.field(default=True, metadata=DERIVATION)

    def __post_init__(self):
        super().__post_init__()
        # Eq. (4) divides the probability of Zeroise by gamma.
        if not 0 < self.gamma < float("inf"):
            raise UserError(
                "config.searcher.gamma must be a finite number greater than 0, got "
                f"{self.gamma:g}; 1 leaves Eq. 4 without effect"
            )

    def derive_cell(self, weights: np.ndarray) -> Cell:
        """The top two edges of each node, the strongest layer type on each (Eq. 4)."""
        return derivation.derive(
            weights,
            gamma=self.gamma,
            keep_zeroise=self.keep_zeroise,
            layer_types=self.layer_types,
        )
