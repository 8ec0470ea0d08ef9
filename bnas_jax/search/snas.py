"""SNAS (arXiv 1812.09926): one loss updates alpha and the weights together.

The mixture weights are drawn by a Gumbel softmax with a falling temperature. Formulas
and numbers are those of the authors' code (docs/searchers.md).
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bnas_jax.core import alphas as alphas_lib
from bnas_jax.core import derivation
from bnas_jax.core.alphas import Alphas
from bnas_jax.core.checks import positive, rates, shares
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import Cell
from bnas_jax.search import costs as costs_lib
from bnas_jax.search import gumbel
from bnas_jax.search.costs import Costs
from bnas_jax.search.searcher import (
    ALPHAS,
    NO_SETTING,
    TRAIN,
    WEIGHTS,
    Progress,
    Searcher,
    Stage,
)


@dataclasses.dataclass(frozen=True)
class Snas(Searcher):
    """SNAS's search.

    Each step draws the mixture weights by a Gumbel softmax with the logits alpha, and
    updates alpha and the weights by the gradient of the training loss.

    temperature_start, temperature_end: the temperature of the Gumbel softmax. It falls
        linearly, and reaches its end in the last of the annealing_epochs.
    annealing_epochs: None is all epochs of the search.
    drop_path: the probability with which an edge is dropped for an example.
    resource_weight: eta of the resource loss, see `costs.resource_loss`; 0 is off.
    train_share: 1 as in SNAS, which has no validation data: the genotype is that of the
        last epoch. Below 1, epochs are validated on the rest of the training set.
    costs: the costs of the supernet, which `for_supernet` fills in.
    """

    temperature_start: float = 1.0
    temperature_end: float = 0.03
    annealing_epochs: int | None = None
    drop_path: float = 0.3
    resource_weight: float = 0.0
    train_share: float = dataclasses.field(default=1.0, kw_only=True)
    costs: Costs | None = dataclasses.field(
        default=None, kw_only=True, metadata=NO_SETTING
    )

    # A single stage updates the weights and alpha.
    stages: ClassVar[tuple[Stage, ...]] = (
        Stage(batches=(TRAIN,), moves=frozenset({WEIGHTS, ALPHAS})),
    )

    def __post_init__(self):
        prefix = "config.searcher"
        # The temperature of the Gumbel softmax.
        temperatures = ("temperature_start", "temperature_end")
        rates(prefix, self, *temperatures, least=gumbel.LEAST_TEMPERATURE)
        if self.temperature_end > self.temperature_start:
            raise UserError(
                f"{prefix}.temperature_end={self.temperature_end} must be at most "
                f"{prefix}.temperature_start={self.temperature_start}, from which it "
                "falls"
            )
        if self.annealing_epochs is not None:
            positive(prefix, self, "annealing_epochs")

        # The weight of the resource loss, the rate and the share.
        rates(prefix, self, "resource_weight", least=0)
        shares(prefix, self, "drop_path")
        if not 0 < self.train_share <= 1:
            raise UserError(
                f"{prefix}.train_share must be above 0 and at most 1, got "
                f"{self.train_share}"
            )

    @property
    def drop_path_rate(self) -> float:
        return self.drop_path

    def for_supernet(
        self, supernet: nn.Module, image_shape: tuple[int, int, int]
    ) -> "Snas":
        # Only the resource loss reads the costs.
        if self.resource_weight == 0:
            return self
        return dataclasses.replace(self, costs=costs_lib.costs(supernet, image_shape))

    def init(self, key, dtype=jnp.float32):
        """The initial alpha, drawn from N(1, 0.01^2) as in SNAS's code."""
        # `super().init` draws from N(0, 0.001^2).
        drawn = super().init(key, dtype=dtype)
        return {name: 1 + 10 * value for name, value in drawn.items()}

    def weights(self, alphas: Alphas, key, progress: Progress | None):
        """One Gumbel-softmax sample per step, shared by all cells of a kind.

        An evaluation takes the softmax of alpha: no noise, temperature 1.
        """
        if key is None or progress is None:
            return alphas_lib.relax(alphas)

        # softmax((alpha + noise) / temperature)
        noise = gumbel.draw(key, alphas)
        temperature = self.temperature(progress)
        drawn = {}
        for name, alpha in alphas.items():
            # The weights have the dtype of alpha.
            of_dtype = temperature.astype(alpha.dtype)
            drawn[name] = gumbel.soft(alpha, noise[name], temperature=of_dtype)
        return drawn

    def temperature(self, progress: Progress) -> jax.Array:
        """Linear in the epoch; the first epoch is already one step below the start."""
        # After the last of the annealing epochs it stays at its end.
        epochs = self.annealing_epochs or progress.num_epochs
        share = jnp.minimum((progress.epoch + 1) / epochs, 1.0)
        fall = self.temperature_start - self.temperature_end
        return self.temperature_end + fall * (1 - share)

    def resources(self, weights) -> jax.Array:
        """eta times the resource loss, a scalar."""
        if self.resource_weight == 0:
            return jnp.zeros(())
        if self.costs is None:
            raise UserError(
                "config.searcher.resource_weight needs the costs of a supernet: write "
                "searcher.for_supernet(supernet, image_shape)"
            )
        return self.resource_weight * costs_lib.resource_loss(weights, self.costs)

    def derive_cell(self, weights: np.ndarray) -> Cell:
        """All edges, each with its strongest layer type, Zeroise included."""
        return derivation.all_edges(weights, self.layer_types)
