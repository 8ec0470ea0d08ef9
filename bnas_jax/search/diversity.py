"""`Diverse`: the base of the searchers with the diversity regularizer (Eq. 5)."""

import dataclasses

import jax

from bnas_jax.core import alphas as alphas_lib
from bnas_jax.core.alphas import ENTROPIES, Alphas
from bnas_jax.core.checks import choice, rates
from bnas_jax.core.errors import UserError
from bnas_jax.search.searcher import Progress, Searcher

# In epochs. Much smaller values are 0 in float32.
LEAST_TAU = 1e-6


@dataclasses.dataclass(frozen=True)
class Diverse(Searcher):
    """A bilevel search whose objective of alpha has the diversity regularizer.

    diversity: lambda of Eq. (5); 0 is off.
    tau: tau of Eq. (5), in epochs.
    entropy: the edges that the entropy averages over, `all` or `released`, see
        `alphas.entropy`.
    """

    diversity: float = 1.0
    tau: float = 7.7
    entropy: str = "all"

    def __post_init__(self):
        prefix = "config.searcher"
        rates(prefix, self, "diversity", least=0)
        # In this form NaN fails, too.
        if not self.tau >= LEAST_TAU:
            raise UserError(
                f"{prefix}.tau must be at least {LEAST_TAU:g}, got {self.tau}; "
                f"{prefix}.diversity=0 is off"
            )
        choice(f"{prefix}.entropy", self.entropy, choices=ENTROPIES)

    def regularizer(self, alphas: Alphas, progress: Progress) -> jax.Array:
        """-lambda * H(alpha) * exp(-epoch / tau), a scalar (Eq. 5)."""
        return alphas_lib.diversity(
            alphas,
            progress.epoch,
            weight=self.diversity,
            tau=self.tau,
            edges=self.entropy,
        )
