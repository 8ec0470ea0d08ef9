"""Random search with shared weights (arXiv 1902.07638): the best of many random cells, with weights that all of them share."""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from bnas_jax.core.alphas import Alphas
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import EDGES, Genotype, of_cells
from bnas_jax.search.searcher import TRAIN, WEIGHTS, Finished, Progress, Score, Searcher, Stage


@dataclasses.dataclass(frozen=True)
class Random(Searcher):
    """Each step trains one random cell. candidates: how many are scored at the end, with the weights that they inherit, on
    score_batches held-out batches each. finalists: the best of them, which are scored on all held-out batches.

    Batch norm normalises by the batch in a score, too: running statistics are of other cells.
    """

    candidates: int = 1000
    score_batches: int = 10
    finalists: int = 10

    stages: ClassVar[tuple[Stage, ...]] = (Stage((TRAIN,), frozenset({WEIGHTS})),)
    has_alphas: ClassVar[bool] = False

    def __post_init__(self):
        for name in ("candidates", "score_batches", "finalists"):
            if getattr(self, name) < 1:
                raise UserError(
                    f"config.searcher.{name} must be at least 1, got {getattr(self, name)}"
                )
        if self.finalists > self.candidates:
            raise UserError(
                f"config.searcher.finalists={self.finalists} must be at most config.searcher.candidates={self.candidates}"
            )

    def init(self, key, dtype=jnp.float32):
        """{}: there is no alpha."""
        del key, dtype
        return {}

    def weights(self, alphas: Alphas, key, progress: Progress | None):
        """Those of a cell that is drawn; in a score, the cell is what stands for alpha."""
        del progress
        if key is None:
            return dict(alphas)
        return self._sample(key)

    def derive(self, alphas: Alphas) -> Genotype:
        """There is nothing to derive from."""
        raise UserError(
            "a random search has no alphas to derive a genotype from; its cell is that of its genotype.json"
        )

    def record(self, alphas: Alphas) -> dict:
        """Nothing."""
        del alphas
        return {}

    def finish(self, key, score: Score) -> Finished:
        """The best finalist, the first of equals. Each candidate has its top-1 in %, finalists also `top1_of_all` batches."""
        cells = [self._candidate(key, number) for number in range(self.candidates)]
        few = [
            score(cell, range(n * self.score_batches, (n + 1) * self.score_batches))
            for n, cell in enumerate(cells)
        ]
        listed = [
            {**genotype_of(cell, self.layer_types).to_dict(), "top1": top1}
            for cell, top1 in zip(cells, few, strict=True)
        ]
        finalists = sorted(range(self.candidates), key=lambda number: -few[number])[
            : self.finalists
        ]
        for number in finalists:
            listed[number]["top1_of_all"] = score(cells[number], None)
        best = max(finalists, key=lambda number: listed[number]["top1_of_all"])
        return Finished(
            genotype_of(cells[best], self.layer_types), listed[best]["top1_of_all"], listed
        )

    def _candidate(self, key, number: int) -> dict[str, np.ndarray]:
        return {
            name: np.asarray(value)
            for name, value in self._sample(jax.random.fold_in(key, number)).items()
        }

    def _sample(self, key) -> dict[str, jax.Array]:
        drawn = sample(key, len(self.layer_types))
        return {name: drawn[name] for name in self.searched}


@functools.partial(jax.jit, static_argnums=1)
def sample(key, num_types: int) -> dict[str, jax.Array]:
    """The weights of a random cell, {"normal", "reduce"}, (14, layer types) each: 1 at the two edges of each node, else 0.

    A node takes two different inputs, each through a layer type of its own, all equally likely.
    """
    normal, reduce = jax.random.split(key)
    return {"normal": _sample_cell(normal, num_types), "reduce": _sample_cell(reduce, num_types)}


def _sample_cell(key, num_types: int) -> jax.Array:
    of_inputs, of_types = jax.random.split(key)
    order = jax.random.permutation(of_inputs, len(EDGES))
    types = jax.random.randint(of_types, (len(EDGES),), 0, num_types)
    # Of the edges into a node, the two that come first in a random order.
    nodes = np.array([node for _, node in EDGES])
    earlier = (nodes[:, None] == nodes) & (order[:, None] > order)
    taken = jnp.sum(earlier, axis=1) < 2
    return jax.nn.one_hot(types, num_types) * taken[:, None]


def genotype_of(weights, layer_types: tuple[str, ...]) -> Genotype:
    """The genotype that a random cell's weights stand for."""
    return of_cells(
        {name: _cell_of(np.asarray(value), layer_types) for name, value in weights.items()}
    )


def _cell_of(weights: np.ndarray, layer_types: tuple[str, ...]) -> tuple:
    taken = [
        (layer_types[int(row.argmax())], source)
        for row, (source, _) in zip(weights, EDGES, strict=True)
        if row.any()
    ]
    return tuple(taken)
