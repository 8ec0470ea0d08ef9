"""BNAS: the first-order bilevel search of DARTS with the annealed diversity regularizer (Eq. 5).

A searcher says how alpha begins, what its objective adds to the loss and which genotype it stands for; the step does the rest.
"""

import dataclasses
from typing import Any, Protocol

import jax

from bnas_jax.core import alphas as alphas_lib
from bnas_jax.core import genotype as genotype_lib
from bnas_jax.core.alphas import Alphas
from bnas_jax.core.genotype import Genotype


class Searcher(Protocol):
    """What a search algorithm is to the loop."""

    def init_alphas(self, key) -> dict[str, jax.Array]:
        """alpha at the start."""

    def regularizer(self, alphas: Alphas, epoch) -> jax.Array:
        """What alpha's objective adds to the cross-entropy of a validation batch (Eq. 5)."""

    def derive(self, alphas: Alphas) -> Genotype:
        """The genotype that alpha stands for."""


@dataclasses.dataclass(frozen=True)
class Bnas:
    """layer_types: columns of alpha. diversity, tau: lambda and tau of Eq. (5). gamma, keep_zeroise: see `genotype.derive`.
    entropy: the edges that Eq. (5) averages, see `alphas.entropy`."""

    layer_types: tuple[str, ...]
    diversity: float
    tau: float
    gamma: float
    keep_zeroise: bool
    dtype: Any
    entropy: str = "all"

    def init_alphas(self, key) -> dict[str, jax.Array]:
        return alphas_lib.init(key, len(self.layer_types), self.dtype)

    def regularizer(self, alphas: Alphas, epoch) -> jax.Array:
        return alphas_lib.diversity(alphas, epoch, weight=self.diversity, tau=self.tau, edges=self.entropy)

    def derive(self, alphas: Alphas) -> Genotype:
        weights = alphas_lib.relax(alphas)
        return genotype_lib.derive_genotype(
            weights, gamma=self.gamma, keep_zeroise=self.keep_zeroise, layer_types=self.layer_types
        )
