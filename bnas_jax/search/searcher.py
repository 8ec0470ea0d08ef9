"""What a searcher is: one subclass of `Searcher`, one entry of `search.SEARCHERS`.

A searcher defines its step: which batches each stage takes and what it moves, the
weights of the mixtures, and what its objective adds to the cross-entropy. It may have a
custom gradient. It also defines how a genotype is derived from alpha. The training loop
knows none of it.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bnas_jax.core import alphas as alphas_lib
from bnas_jax.core import derivation
from bnas_jax.core import genotype as genotype_lib
from bnas_jax.core.alphas import Alphas
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import TABLE_3, Cell, Genotype
from bnas_jax.core.layers import learnable_share

WEIGHTS, ALPHAS = "weights", "alphas"
TRAIN, VALID = "train", "valid"
# Metadata of a field that is no setting.
NO_SETTING = {"setting": False}
# Metadata of a setting that only `derive_cell` reads, which may change when a run goes
# on.
DERIVATION = {"derivation": True}


class Stage(NamedTuple):
    """A part of a step, such as the alpha step or the weight step.

    batches: the batches that it takes, of `TRAIN` and `VALID`; the objective is the
        loss of the first.
    moves: what it updates, of `WEIGHTS` and `ALPHAS`.
    beside: parameters whose gradient is computed but not applied, because `clip` needs
        its norm (GDAS).
    """

    batches: tuple[str, ...]
    moves: frozenset[str]
    beside: frozenset[str] = frozenset()


class Progress(NamedTuple):
    """How far a search is.

    epoch: the number of finished epochs, an integer array ().
    num_epochs: the number of epochs of the whole search.
    """

    epoch: jax.Array
    num_epochs: int


# (params, alphas) -> the mean cross-entropy of a part of a batch.
Loss = Callable[[Any, Alphas], jax.Array]
# (function, name of a batch) -> the mean of `function(loss)` over the parts of that
# batch: microbatches and devices.
Mean = Callable[[Callable[[Loss], Any], str], Any]
# (params, their gradients) -> params after one update of the weights' optimizer,
# without clipping; its state stays as it is.
Virtual = Callable[[Any, Any], Any]


class Finished(NamedTuple):
    """What a searcher that scores candidates ends with.

    genotype: that of the best candidate.
    top1: its score in %.
    candidates: all candidates, as candidates.json lists them.
    """

    genotype: Genotype
    top1: float
    candidates: list[dict]


class Tried(NamedTuple):
    """A candidate of a search that begins anew for each (`Searcher.restart_epochs`).

    alphas: its alpha after its last epoch, {"normal", "reduce"}, (14, layer types)
        each.
    top1: its validation accuracy then, in %.
    """

    alphas: dict[str, np.ndarray]
    top1: float


# (weights of the layer types, numbers of validation batches or None for all) -> top-1
# in %.
Score = Callable[[Mapping[str, Any], range | None], float]


@dataclasses.dataclass(frozen=True)
class Searcher:
    """The base of all searchers, with the stages of first-order DARTS.

    They are an alpha step on validation data, then a weight step on training data, both
    with softmax mixtures. Fields of a subclass are its settings, `config.searcher.*`,
    but for those with the metadata `NO_SETTING`.

    layer_types: the columns of alpha, those of the supernet, see `of`.
    fixed_reduction: whether the reduction cell is hand-made and has no alpha, as in the
        supernet, see `of`.
    train_share: the part of the training set that the weights are trained on; the rest
        is validation data, none where it is 1.

    >>> searcher = bnas.SEARCHERS["darts"]()
    >>> alphas = searcher.init(jax.random.key(0))
    >>> alphas["normal"].shape
    (14, 7)
    """

    layer_types: tuple[str, ...] = dataclasses.field(
        default=TABLE_3, kw_only=True, metadata=NO_SETTING
    )
    fixed_reduction: bool = dataclasses.field(
        default=False, kw_only=True, metadata=NO_SETTING
    )
    train_share: float = dataclasses.field(
        default=0.5, kw_only=True, metadata=NO_SETTING
    )

    # The alpha step, then the weight step.
    stages: ClassVar[tuple[Stage, ...]] = (
        Stage(batches=(VALID,), moves=frozenset({ALPHAS})),
        Stage(batches=(TRAIN,), moves=frozenset({WEIGHTS})),
    )
    # Whether there is an alpha, which a genotype is derived from and an epoch is
    # evaluated with.
    has_alphas: ClassVar[bool] = True
    # Which weights decay: `all`, or `moved`, those that had a gradient at least once.
    decayed: ClassVar[str] = "all"
    # Whether all weights of an edge but one are 0, so that only one layer needs to run
    # (`edges="chosen"`).
    one_layer: ClassVar[bool] = False

    @property
    def drop_path_rate(self) -> float:
        """Rate at which edges of the supernet are dropped in each step."""
        return 0.0

    @property
    def restart_epochs(self) -> int | None:
        """The epochs after which weights begin anew, again and again; None is never.

        `restart` then gives another alpha. Such a search is validated at the end of
        each of these periods, and the learning rate falls within each.
        """
        return None

    @property
    def second_order(self) -> bool:
        """Whether `gradient` takes second derivatives.

        It then needs the losses of the plain arithmetic.
        """
        return False

    def of(self, supernet: Any) -> Self:
        """This searcher with the columns and cells of alpha that a supernet has.

        supernet: a supernet, or the settings of one.
        """
        fixed = getattr(supernet, "fixed_reduction", False)
        return dataclasses.replace(
            self, layer_types=supernet.layer_types, fixed_reduction=fixed
        )

    def for_supernet(
        self, supernet: nn.Module, image_shape: tuple[int, int, int]
    ) -> Self:
        """This searcher with what it needs to know of the supernet and its images.

        image_shape: (H, W, C).
        """
        # Only a searcher with costs needs to know them (SNAS).
        del supernet, image_shape
        return self

    def init(self, key, dtype=jnp.float32) -> dict[str, jax.Array]:
        """alpha at the start: {"normal", "reduce"}, each (14, layer types).

        It is {"normal"} alone beside a fixed reduction cell, and {} for a searcher
        without alpha (`has_alphas`), which overrides `weights`, `derive` and `record`,
        too. A searcher may have arrays of other names and shapes beside them, such as a
        weight for each edge, which its `weights` reads.
        """
        drawn = alphas_lib.init(key, len(self.layer_types), dtype)
        return {name: drawn[name] for name in self.searched}

    def restart(
        self, key, tried: Sequence[Tried], dtype=jnp.float32
    ) -> Mapping[str, Any]:
        """alpha of the next candidate, where a search begins anew (`restart_epochs`).

        By default it is drawn as the first one was.

        key: another one for each candidate.
        tried: all candidates so far, in their order.
        """
        del tried
        return self.init(key, dtype)

    @property
    def searched(self) -> tuple[str, ...]:
        """The names of the cells that are searched."""
        if self.fixed_reduction:
            return ("normal",)
        return ("normal", "reduce")

    def weights(
        self, alphas: Alphas, key, progress: Progress | None
    ) -> dict[str, jax.Array]:
        """The weights of the layer types in the mixtures, in the shapes of alpha.

        key: for random numbers, one key a step; None in an evaluation, which draws
            none.
        progress: None in an evaluation.
        """
        del key, progress
        return alphas_lib.relax(alphas)

    def scalars(
        self, alphas: Alphas, key, progress: Progress
    ) -> dict[str, jax.Array] | None:
        """What a step adds to all outputs of an edge; None is nothing.

        Returns {"normal", "reduce"}, (14,) each. key: the same as in `weights`.
        """
        del alphas, key, progress
        return None

    def temperature(self, progress: Progress) -> jax.Array | None:
        """The temperature that `weights` draws with, a scalar, to be logged.

        None for a searcher without one.
        """
        del progress
        return None

    def regularizer(self, alphas: Alphas, progress: Progress) -> jax.Array:
        """A scalar added to the loss of a stage that moves alpha, such as Eq. (5)."""
        del alphas, progress
        return jnp.zeros(())

    def resources(self, weights: Mapping[str, jax.Array]) -> jax.Array:
        """A scalar cost of the mixtures, such as SNAS's, added like `regularizer`.

        weights: the weights that the step has drawn, see `weights`.
        """
        del weights
        return jnp.zeros(())

    def gradient(
        self, mean: Mean, virtual: Virtual, params, alphas: Alphas
    ) -> Any | None:
        """A custom gradient with respect to alpha; None is the ordinary one.

        Example: `mean(lambda loss: jax.grad(loss)(params, alphas), TRAIN)` is the
        gradient of the training loss with respect to the weights, averaged over all
        microbatches and devices. Any function that is linear in the loss can be
        averaged like that.

        Running statistics stay as they are. The gradient of `regularizer` and
        `resources` is added to what this returns.
        """
        del mean, virtual, params, alphas
        return None

    def clip(self, gradients: dict[str, Any]) -> dict[str, Any]:
        """The gradients of a stage as the optimizers get them: clipped, or as they are.

        gradients: {"weights", "alphas"}, or one of them if the stage takes only one.
        """
        return gradients

    def derive(self, alphas: Alphas) -> Genotype:
        """The genotype of alpha: of each cell, `derive_cell` of its `weights`."""
        # Those of an evaluation, which draws nothing.
        weights = self.weights(alphas, None, None)
        cells = {}
        for name in self.searched:
            cells[name] = self.derive_cell(np.asarray(weights[name]))
        return genotype_lib.of_cells(cells)

    def derive_cell(self, weights: np.ndarray) -> Cell:
        """A cell of each node's two strongest edges.

        weights: those of an evaluation, the softmax of alpha, (14, layer types).
        """
        return derivation.derive(weights, layer_types=self.layer_types)

    def record(self, alphas: Alphas) -> dict[str, Any]:
        """The fields about alpha in an epoch's line of metrics.jsonl."""
        genotype = self.derive(alphas)
        of_cells = {name: alphas[name] for name in self.searched}
        return {
            "alpha_entropy": float(alphas_lib.entropy(of_cells)),
            "learnable_share": learnable_share(genotype),
            "genotype": genotype.to_dict(),
        }

    def finish(self, key, score: Score) -> Finished | None:
        """The candidate that scores best, at the end of a search without alpha.

        None for all other searches.
        """
        del key, score
        return None


def check_rates(searcher: Searcher, *names: str, least: float | None = None) -> None:
    """Raises `UserError` for the first of these settings that is out of range.

    least: the smallest allowed value; without it settings are to be above 0. All have
        to be finite.
    """
    for name in names:
        value = getattr(searcher, name)
        if least is None:
            fits, wanted = value > 0, "greater than 0"
        else:
            fits, wanted = value >= least, f"at least {least:g}"
        # Written so that NaN fails, too.
        if not (fits and value < float("inf")):
            raise UserError(
                f"config.searcher.{name} must be a finite number {wanted}, got {value}"
            )
