"""What a searcher is. A search algorithm is one subclass of `Searcher` and one entry of `search.SEARCHERS`.

A searcher owns its step: which batches a stage of it takes and what that moves, the weights of the mixtures, what its
objective adds, a gradient of its own where it has one, and the genotype that alpha stands for. The loop knows none of it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from bnas_jax.core import alphas as alphas_lib
from bnas_jax.core import genotype as genotype_lib
from bnas_jax.core.alphas import Alphas
from bnas_jax.core.genotype import TABLE_3, Genotype
from bnas_jax.core.layers import learnable_share

WEIGHTS, ALPHAS = "weights", "alphas"
TRAIN, VALID = "train", "valid"


class Stage(NamedTuple):
    """A part of a step. batches: what it takes, of `TRAIN` and `VALID`; the objective is that of the first. moves: what its
    gradient moves, of `WEIGHTS` and `ALPHAS`."""

    batches: tuple[str, ...]
    moves: frozenset[str]


class Progress(NamedTuple):
    """How far a search is. epoch: whole epochs that are behind it, an int array. num_epochs: all of them."""

    epoch: jax.Array
    num_epochs: int


# (params, alphas, batch) -> the mean cross-entropy of a batch.
Loss = Callable[[Any, Alphas, Mapping], jax.Array]
# (params, gradients at them) -> params after one update of the weights' optimizer, which keeps nothing of it.
Virtual = Callable[[Any, Any], Any]


@dataclasses.dataclass(frozen=True)
class Searcher:
    """The base of all searchers: alpha on validation data, then weights on training data, with softmax mixtures (DARTS).

    Fields of a subclass are its settings, `config.searcher.*`. `layer_types` are the columns of alpha: those of the supernet,
    which `SearchStep` hands over.
    """

    layer_types: tuple[str, ...] = dataclasses.field(default=TABLE_3, kw_only=True, metadata={"setting": False})

    stages: ClassVar[tuple[Stage, ...]] = (
        Stage((VALID,), frozenset({ALPHAS})),
        Stage((TRAIN,), frozenset({WEIGHTS})),
    )

    def init(self, key, dtype=jnp.float32) -> dict[str, jax.Array]:
        """alpha at the start, {"normal", "reduce"}, each (14, layer types).

        {} for a searcher without any, which overrides `weights`, `derive` and `record`, too.
        """
        return alphas_lib.init(key, len(self.layer_types), dtype)

    def weights(self, alphas: Alphas, key, progress: Progress | None) -> dict[str, jax.Array]:
        """The weights of the layer types, shapes as alpha.

        key: for what is drawn, once a step; None in an evaluation, which draws nothing. progress: None in an evaluation.
        """
        del key, progress
        return alphas_lib.relax(alphas)

    def regularizer(self, alphas: Alphas, progress: Progress) -> jax.Array:
        """What the objective of a stage that moves alpha adds to the cross-entropy."""
        del alphas, progress
        return jnp.zeros(())

    def gradient(self, loss: Loss, virtual: Virtual, params, alphas: Alphas, batches: Mapping) -> Any | None:
        """A gradient of the loss at alpha of the searcher's own, or None for the ordinary one. batches: by name.

        That of the regularizer is added to it.
        """
        del loss, virtual, params, alphas, batches
        return None

    def derive(self, alphas: Alphas) -> Genotype:
        """The genotype that alpha stands for."""
        weights = alphas_lib.relax(alphas)
        return genotype_lib.derive_genotype(weights, layer_types=self.layer_types)

    def record(self, alphas: Alphas) -> dict[str, Any]:
        """What an epoch's line of metrics.jsonl says of alpha."""
        genotype = self.derive(alphas)
        return {
            "alpha_entropy": float(alphas_lib.entropy(alphas)),
            "learnable_share": learnable_share(genotype),
            "genotype": genotype.to_dict(),
        }
