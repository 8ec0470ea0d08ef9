"""BNAS: the first-order bilevel search of DARTS with Zeroise kept and an annealed diversity regularizer (Eq. 4 and 5)."""

import dataclasses

import jax

from bnas_jax.core import alphas as alphas_lib
from bnas_jax.core import genotype as genotype_lib
from bnas_jax.core.alphas import ENTROPIES, Alphas
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import Genotype
from bnas_jax.search.searcher import Progress, Searcher


@dataclasses.dataclass(frozen=True)
class Bnas(Searcher):
    """gamma, keep_zeroise: see `genotype.derive` (Eq. 4, section 4.1.3).

    diversity, tau: lambda and tau of Eq. (5); diversity=0 is off. entropy: the mean over `all` edges of both cells, or as
    `released`, see `alphas.entropy`.
    """

    gamma: float = 1.0
    keep_zeroise: bool = True
    diversity: float = 1.0
    tau: float = 7.7
    entropy: str = "all"

    def __post_init__(self):
        prefix = "config.searcher"
        if not self.gamma > 0:
            raise UserError(f"{prefix}.gamma must be greater than 0, got {self.gamma}; 1 leaves Eq. 4 without effect")
        if not 0 <= self.diversity < float("inf"):
            raise UserError(f"{prefix}.diversity must be a finite number at least 0, got {self.diversity}")
        if not self.tau > 0:
            raise UserError(f"{prefix}.tau must be greater than 0, got {self.tau}; {prefix}.diversity=0 is off")
        if self.entropy not in ENTROPIES:
            raise UserError(f"{prefix}.entropy must be one of {', '.join(ENTROPIES)}, got {self.entropy!r}")

    def regularizer(self, alphas: Alphas, progress: Progress) -> jax.Array:
        """Eq. (5)."""
        return alphas_lib.diversity(alphas, progress.epoch, weight=self.diversity, tau=self.tau, edges=self.entropy)

    def derive(self, alphas: Alphas) -> Genotype:
        """Top two edges a node, the strongest layer type on each (Eq. 4)."""
        return genotype_lib.derive_genotype(
            alphas_lib.relax(alphas),
            gamma=self.gamma,
            keep_zeroise=self.keep_zeroise,
            layer_types=self.layer_types,
        )
