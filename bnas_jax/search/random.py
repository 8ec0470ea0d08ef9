"""Random search with shared weights (arXiv 1902.07638).

It takes the best of many random cells, which are evaluated with shared weights.
"""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from bnas_jax.core.alphas import Alphas
from bnas_jax.core.checks import positive
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import EDGES, Genotype, of_cells
from bnas_jax.search.searcher import (
    TRAIN,
    WEIGHTS,
    Finished,
    Progress,
    Score,
    Searcher,
    Stage,
)


@dataclasses.dataclass(frozen=True)
class Random(Searcher):
    """Random search with shared weights: each step trains the layers of a random cell.

    At the end, random candidates are scored: evaluated with the shared weights. Batch
    norm then takes the statistics of the batch, as in training, because the running
    statistics are averages over other cells.

    candidates: the number of random cells that are scored.
    score_batches: the number of validation batches that each candidate is scored on.
    finalists: the number of best candidates that are scored again, on all validation
        batches.
    """

    candidates: int = 1000
    score_batches: int = 10
    finalists: int = 10

    # There is no alpha step.
    stages: ClassVar[tuple[Stage, ...]] = (
        Stage(batches=(TRAIN,), moves=frozenset({WEIGHTS})),
    )
    has_alphas: ClassVar[bool] = False

    def __post_init__(self):
        prefix = "config.searcher"
        positive(prefix, self, "candidates", "score_batches", "finalists")
        if self.finalists > self.candidates:
            raise UserError(
                f"{prefix}.finalists={self.finalists} must be at most "
                f"{prefix}.candidates={self.candidates}"
            )

    def init(self, key, dtype=jnp.float32):
        """{}: there is no alpha."""
        del key, dtype
        return {}

    def weights(self, alphas: Alphas, key, progress: Progress | None):
        """The mixture weights of a random cell, see `sample`.

        Without a key, `alphas` are already the mixture weights of the candidate that is
        scored.
        """
        del progress
        if key is None:
            return dict(alphas)
        return self._sample(key)

    def derive(self, alphas: Alphas) -> Genotype:
        """Raises `UserError`: there is nothing to derive from."""
        raise UserError(
            "a random search has no alphas to derive a genotype from; its cell is that "
            "of its genotype.json"
        )

    def record(self, alphas: Alphas) -> dict:
        """{}: there is no alpha to record."""
        del alphas
        return {}

    def finish(self, key, score: Score) -> Finished:
        """The best finalist, the first of equals.

        Each candidate is listed with its genotype and its `top1` in %; a finalist also
        has `top1_of_all`, the accuracy on all validation batches.
        """
        numbers = range(self.candidates)
        cells = [self._candidate(key, number) for number in numbers]

        # Score each candidate on the next batches. After the last batch follows the
        # first one again.
        listed = []
        for number, cell in enumerate(cells):
            first = number * self.score_batches
            batches = range(first, first + self.score_batches)
            top1 = score(cell, batches)
            genotype = genotype_of(cell, self.layer_types)
            listed.append({**genotype.to_dict(), "top1": top1})

        # Score the best of them again, on all batches.
        ranked = sorted(numbers, key=lambda number: -listed[number]["top1"])
        finalists = ranked[: self.finalists]
        for number in finalists:
            listed[number]["top1_of_all"] = score(cells[number], None)

        # The best of the finalists.
        best = max(finalists, key=lambda number: listed[number]["top1_of_all"])
        return Finished(
            genotype=genotype_of(cells[best], self.layer_types),
            top1=listed[best]["top1_of_all"],
            candidates=listed,
        )

    def _candidate(self, key, number: int) -> dict[str, np.ndarray]:
        """The mixture weights of a candidate, determined by the key and its number."""
        drawn = self._sample(jax.random.fold_in(key, number))
        return {name: np.asarray(value) for name, value in drawn.items()}

    def _sample(self, key) -> dict[str, jax.Array]:
        """`sample` for the cells that are searched."""
        # A fixed reduction cell has no weights.
        drawn = sample(key, len(self.layer_types))
        return {name: drawn[name] for name in self.searched}


@functools.partial(jax.jit, static_argnums=1)
def sample(key, num_types: int) -> dict[str, jax.Array]:
    """The mixture weights of a random genotype, {"normal", "reduce"}.

    Each is (14, layer types): 1 at the layer type of a chosen edge, else 0. Each node
    chooses two different edges and a layer type for each of them, all equally likely.
    """
    normal, reduce = jax.random.split(key)
    return {
        "normal": _sample_cell(normal, num_types),
        "reduce": _sample_cell(reduce, num_types),
    }


def _sample_cell(key, num_types: int) -> jax.Array:
    """The mixture weights of one random cell, (14, layer types)."""
    # A random order of the edges, and a layer type for each: (14,) both.
    of_inputs, of_types = jax.random.split(key)
    order = jax.random.permutation(of_inputs, len(EDGES))
    types = jax.random.randint(
        of_types,
        shape=(len(EDGES),),
        minval=0,
        maxval=num_types,
    )

    # Of the edges that enter a node, the first two in the random order.
    nodes = np.array([node for _, node in EDGES])
    same_node = nodes[:, None] == nodes  # (14, 14)
    earlier = same_node & (order[:, None] > order)
    taken = jnp.sum(earlier, axis=1) < 2  # (14,)
    return jax.nn.one_hot(types, num_types) * taken[:, None]


def genotype_of(weights, layer_types: tuple[str, ...]) -> Genotype:
    """The genotype of a random cell.

    weights: {"normal", "reduce"}, (14, layer types) each, as `sample` draws them.
    """
    cells = {}
    for name, value in weights.items():
        cells[name] = _cell_of(np.asarray(value), layer_types)
    return of_cells(cells)


def _cell_of(weights: np.ndarray, layer_types: tuple[str, ...]) -> tuple:
    """The eight (layer type, input) pairs of a cell: those of rows that are not 0."""
    pairs = []
    for row, (source, _) in zip(weights, EDGES, strict=True):
        if row.any():
            pairs.append((layer_types[int(row.argmax())], source))
    return tuple(pairs)
