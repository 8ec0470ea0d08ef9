"""`Searcher`: the base of all search algorithms, the entries of `search.SEARCHERS`.

A searcher defines the stages of its step (an alpha step, a weight step, or both in
one), the mixture weights, the terms that its objective adds to the cross-entropy, and
how a genotype is derived from alpha. It may define the gradient with respect to alpha.
The training loop is the same for all searchers.
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
from bnas_jax.core.errors import UserError, shown
from bnas_jax.core.genotype import TABLE_3, Cell, Genotype
from bnas_jax.core.layers import learnable_share

WEIGHTS, ALPHAS = "weights", "alphas"
TRAIN, VALID = "train", "valid"
# Metadata of a field that is not a setting.
NO_SETTING = {"setting": False}
# Metadata of a setting that only `derive_cell` reads, and that may therefore change
# when a run is resumed.
DERIVATION = {"derivation": True}


class Stage(NamedTuple):
    """A part of a step, such as the alpha step or the weight step.

    batches: the batches that the stage takes, `TRAIN` or `VALID` or both. The objective
        is the loss on the first one.
    moves: the parameters that the stage updates, `WEIGHTS` or `ALPHAS` or both.
    beside: parameters whose gradient is computed but not applied, because `clip` needs
        its norm (GDAS).
    """

    batches: tuple[str, ...]
    moves: frozenset[str]
    beside: frozenset[str] = frozenset()


class Progress(NamedTuple):
    """The progress of a search, in epochs.

    epoch: the number of finished epochs, a scalar integer array.
    num_epochs: the number of epochs of the whole search.
    """

    epoch: jax.Array
    num_epochs: int


# (params, alphas) -> the mean cross-entropy on a part of a batch.
Loss = Callable[[Any, Alphas], jax.Array]
# (function, name of a batch) -> the mean of `function(loss)` over the parts of that
# batch: microbatches and devices.
Mean = Callable[[Callable[[Loss], Any], str], Any]
# (params, their gradients) -> params after one update by the weights' optimizer,
# without clipping. The state of the optimizer is not updated.
Virtual = Callable[[Any, Any], Any]


class Finished(NamedTuple):
    """The result of a searcher that scores candidates at the end.

    genotype: the best candidate.
    top1: the score of the best candidate, in %.
    candidates: all candidates, in the form of candidates.json.
    """

    genotype: Genotype
    top1: float
    candidates: list[dict]


class Tried(NamedTuple):
    """A finished candidate of a search with restarts (`Searcher.restart_epochs`).

    alphas: its alpha after its last epoch, {"normal", "reduce"}, each (14, layer
        types).
    top1: its validation accuracy then, in %.
    """

    alphas: dict[str, np.ndarray]
    top1: float


# (mixture weights, numbers of the validation batches or None for all) -> top-1 in %.
Score = Callable[[Mapping[str, Any], range | None], float]


@dataclasses.dataclass(frozen=True)
class Searcher:
    """The base of all searchers, with the stages of first-order DARTS.

    These are an alpha step on validation data, then a weight step on training data,
    both with softmax mixtures. The fields of a subclass are its settings,
    `config.searcher.*`, except those with the metadata `NO_SETTING`.

    layer_types: the layer types of alpha's columns; `of` takes them from the supernet.
    fixed_reduction: whether the reduction cell is hand-made and has no alpha; `of`
        takes it from the supernet.
    train_share: the share of the training set that the weights are trained on. The rest
        is validation data; with 1 there is none.

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
    # Whether there is an alpha, from which genotypes are derived and with which epochs
    # are evaluated.
    has_alphas: ClassVar[bool] = True
    # Which weights decay: `all`, or `moved`, those that have had a gradient so far.
    decayed: ClassVar[str] = "all"
    # Whether only one mixture weight of each edge is not 0, so that only one layer
    # needs to run (`edges="chosen"`).
    one_layer: ClassVar[bool] = False

    @property
    def drop_path_rate(self) -> float:
        """The probability with which an edge of the supernet is dropped in a step."""
        return 0.0

    @property
    def restart_epochs(self) -> int | None:
        """The number of epochs after which the search restarts; None is never.

        At each restart the weights are those of the first step again, and `restart`
        gives the next alpha. The learning rate follows its schedule in each period, and
        the supernet is validated at the end of each period.
        """
        return None

    @property
    def second_order(self) -> bool:
        """Whether `gradient` takes second derivatives.

        If so, it is given losses in the plain arithmetic (`Arithmetic.plain`).
        """
        return False

    def of(self, supernet: Any) -> Self:
        """This searcher, with alpha for the layer types and cells of a supernet.

        supernet: a supernet, or the settings of one.
        """
        fixed = getattr(supernet, "fixed_reduction", False)
        return dataclasses.replace(
            self, layer_types=supernet.layer_types, fixed_reduction=fixed
        )

    def for_supernet(
        self, supernet: nn.Module, image_shape: tuple[int, int, int]
    ) -> Self:
        """This searcher, with what it computes from the supernet, such as costs (SNAS).

        image_shape: (H, W, C).
        """
        # Most searchers compute nothing from it.
        del supernet, image_shape
        return self

    def init(self, key, dtype=jnp.float32) -> dict[str, jax.Array]:
        """The initial alpha: {"normal", "reduce"}, each (14, layer types).

        With a fixed reduction cell it is only {"normal"}. For a searcher without alpha
        (`has_alphas`) it is {}; such a searcher also overrides `weights`, `derive` and
        `record`. A searcher may add arrays of other names and shapes that its `weights`
        reads, such as a weight for each edge.
        """
        drawn = alphas_lib.init(key, len(self.layer_types), dtype)
        return {name: drawn[name] for name in self.searched}

    def restart(
        self, key, tried: Sequence[Tried], dtype=jnp.float32
    ) -> Mapping[str, Any]:
        """The alpha of the next candidate, at each restart (`restart_epochs`).

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
        """The mixture weights of the layer types, in the shapes of alpha.

        key: a key for random numbers, another one in each stage of each step; None in
            an evaluation, in which nothing is drawn.
        progress: None in an evaluation.
        """
        del key, progress
        return alphas_lib.relax(alphas)

    def scalars(
        self, alphas: Alphas, key, progress: Progress
    ) -> dict[str, jax.Array] | None:
        """A number for each edge, which is added to all of its outputs; None is 0.

        Returns {"normal", "reduce"}, (14,) each.

        key: the same key as in `weights`.
        """
        del alphas, key, progress
        return None

    def temperature(self, progress: Progress) -> jax.Array | None:
        """The temperature of the draws in `weights`, a scalar, which is logged.

        None for a searcher without a temperature.
        """
        del progress
        return None

    def regularizer(self, alphas: Alphas, progress: Progress) -> jax.Array:
        """A scalar added to the loss of a stage that updates alpha, as in Eq. (5)."""
        del alphas, progress
        return jnp.zeros(())

    def resources(self, weights: Mapping[str, jax.Array]) -> jax.Array:
        """A scalar cost of the mixtures, such as SNAS's, added like `regularizer`.

        weights: the mixture weights of the step, see `weights`.
        """
        del weights
        return jnp.zeros(())

    def gradient(
        self, mean: Mean, virtual: Virtual, params, alphas: Alphas
    ) -> Any | None:
        """A custom gradient with respect to alpha; None takes the ordinary gradient.

        Example: `mean(lambda loss: jax.grad(loss)(params, alphas), TRAIN)` is the
        gradient of the training loss with respect to the weights, averaged over all
        microbatches and devices. Any function that is linear in the loss can be
        averaged like that.

        The running statistics are not updated. The gradient of `regularizer` and
        `resources` is added to the result.

        mean: see `Mean`.
        virtual: a virtual update of the weights, see `Virtual`.
        """
        del mean, virtual, params, alphas
        return None

    def clip(self, gradients: dict[str, Any]) -> dict[str, Any]:
        """The gradients of a stage, clipped before the optimizers see them.

        gradients: {"weights", "alphas"}, or only the one that the stage computes.
        """
        return gradients

    def derive(self, alphas: Alphas) -> Genotype:
        """The genotype derived from alpha: `derive_cell` of each cell's `strengths`.

        Raises `UserError` for alphas of other names or shapes, and for NaN.
        """
        if not isinstance(alphas, Mapping) or not set(self.searched) <= set(alphas):
            found = list(alphas) if isinstance(alphas, Mapping) else alphas
            raise UserError(
                f"derive takes alphas such as state.alphas, a dict of {self.searched}, "
                f"got {shown(found)}"
            )
        strengths = self.strengths(alphas)
        cells = {}
        for name in self.searched:
            of_cell = np.asarray(strengths[name])
            if np.isnan(of_cell).any():
                raise UserError(
                    f"the alphas of {name} are NaN: the search has diverged; lower its "
                    "learning rates"
                )
            cells[name] = self.derive_cell(of_cell)
        return genotype_lib.of_cells(cells)

    def strengths(self, alphas: Alphas) -> dict[str, jax.Array]:
        """What a genotype is derived from, in the shapes of alpha.

        By default the weights of an evaluation, which draws nothing.
        """
        return self.weights(alphas, None, None)

    def derive_cell(self, weights: np.ndarray) -> Cell:
        """The cell of each node's two strongest edges.

        weights: the `strengths` of a cell, by default the softmax of alpha, (14, layer
            types).
        """
        return derivation.derive(weights, layer_types=self.layer_types)

    def record(self, alphas: Alphas) -> dict[str, Any]:
        """The entries about alpha in an epoch's line of metrics.jsonl."""
        genotype = self.derive(alphas)
        of_cells = {name: alphas[name] for name in self.searched}
        return {
            "alpha_entropy": float(alphas_lib.entropy(of_cells)),
            "learnable_share": learnable_share(genotype),
            "genotype": genotype.to_dict(),
        }

    def finish(self, key, score: Score) -> Finished | None:
        """The best candidate, at the end of a search that scores candidates.

        None for all other searches.

        key: for drawing candidates.
        score: see `Score`.
        """
        del key, score
        return None
