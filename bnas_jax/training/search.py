"""Searching a cell, from settings to genotype.json in the work directory (section 5.1)."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bnas_jax.core.errors import UserError
from bnas_jax.core.stack import reductions
from bnas_jax.data.load import Dataset
from bnas_jax.runtime import hosts
from bnas_jax.runtime.devices import Devices
from bnas_jax.search import Progress, Searcher
from bnas_jax.settings import SearchSettings
from bnas_jax.training import build
from bnas_jax.training.build import Program
from bnas_jax.training.derive import rule_of, taken
from bnas_jax.training.evaluate import Evaluator
from bnas_jax.training.state import CANDIDATES, SearchState, Sums, run_key
from bnas_jax.training.task import BetweenBatches, Task, run_task
from bnas_jax.training.workdir import WorkDir, whole, write_json
from bnas_jax.workdir.history import HISTORY


def search(
    run: SearchSettings, workdir: WorkDir, where: Devices | None = None, *, change: bool = False
) -> dict:
    """Searches, or goes on from the newest checkpoint there is. Returns the genotype taken: summary.json.

    where: the devices to use, once JAX is configured; None is those of the settings. change: goes on with other settings.
    """
    _check_cells(run.network.num_cells)
    return run_task(SearchTask(run, workdir, where=where, change=change))


class SearchTask(Task):
    """The search of a cell."""

    split = "valid"

    def build(self, data: Dataset) -> Program:
        return build.search(self.run, data, self.where)

    @property
    def searcher(self) -> Searcher:
        """The program's, which knows the supernet."""
        return self.program.step.searcher

    def build_evaluator(self) -> Evaluator | None:
        if self.program.held_out is None or not self.searcher.has_alphas:
            return None
        seed = None
        if self.run.dataset.augment_validation:
            seed = build.image_seed(self.run, build.VALIDATION)
        return Evaluator(
            self.program.model,
            self.program.held_out,
            self.data.augmentation,
            self.run,
            where=self.where,
            searcher=self.program.step.searcher,
            augment_seed=seed,
        )

    def finish_epoch(self, state: SearchState, epoch: int, between_batches: BetweenBatches):
        valid: dict[str, Any] = {"top1": None}
        top1 = -math.inf  # an epoch that is not validated has ended, too
        if self.evaluator is not None:
            valid = self.evaluator(state.variables, epoch=epoch, between_batches=between_batches)
            top1 = valid["top1"]
        record = self.record(state, epoch, valid) | self._describe(state, epoch)
        state = state.replace(
            sums=Sums.zeros(self.program.model.arithmetic.dtype),
            history=jax.tree.map(
                lambda rows, alpha: rows.at[epoch + 1].set(alpha), state.history, state.alphas
            ),
            valid_top1=state.valid_top1.at[epoch].set(top1),
        )
        write_history(self.workdir, state, epoch)
        return state, record, valid["top1"]

    def _describe(self, state: SearchState, epoch: int) -> dict[str, Any]:
        """What the epoch's record says of alpha, and of the temperature that the epoch had."""
        described = self.searcher.record(state.alphas)
        temperature = self.searcher.temperature(Progress(jnp.asarray(epoch), self.run.num_epochs))
        if temperature is not None:
            described["temperature"] = float(temperature)
        return described

    def summary(self, state: SearchState) -> dict:
        record = self._finished(state)
        if record is None:
            history = {**state.history, "valid_top1": state.valid_top1}
            record = taken(self.searcher, rule_of(self.run), history)
        write_json(self.workdir / "genotype.json", record)
        return {
            "genotype": {name: record[name] for name in ("normal", "reduce")},
            "valid_top1": record["valid_top1"],
            "epoch": record["epoch"],
            "steps": int(state.step),
        }

    def _finished(self, state: SearchState) -> dict | None:
        """genotype.json of a searcher that scores candidates at the end, whose list is candidates.json; None for others."""
        finished = self.searcher.finish(run_key(self.run.seed, CANDIDATES), Scores(self, state))
        if finished is None:
            return None
        write_json(self.workdir / "candidates.json", finished.candidates)
        return {
            **finished.genotype.to_dict(),
            "epoch": self.run.num_epochs - 1,
            "valid_top1": finished.top1,
        }


class Scores:
    """`scores(weights, batches)`: top-1 in % of the supernet with these weights of the layer types, on held-out batches.

    Batches have the size of the search's, and those of a number beyond the last begin anew; None takes all of them. Batch norm
    normalises by the batch.
    """

    def __init__(self, task: SearchTask, state: SearchState):
        self._task, self._state = task, state

    @functools.cached_property
    def _evaluator(self) -> Evaluator:
        task, size = self._task, self._task.run.batch_size
        return Evaluator(
            task.program.model,
            task.program.held_out,
            task.data.augmentation,
            task.run,
            where=task.where,
            searcher=task.searcher,
            batch_size=size,
            batch_statistics=True,
        )

    def __call__(self, weights: Mapping[str, np.ndarray], batches: range | None) -> float:
        # Whole ones: padding would be normalised with the rest.
        count = len(self._task.program.held_out) // self._task.run.batch_size
        numbers = [number % count for number in batches or range(count)]
        placed = {name: self._task.where.place(value) for name, value in weights.items()}
        return self._evaluator({**self._state.variables, "alphas": placed}, batches=numbers)["top1"]


def write_history(workdir: WorkDir, state: SearchState, epoch: int) -> None:
    """alphas.npz: alpha before the first and after each epoch, and the validation accuracies in %, NaN where there is none."""
    if not hosts.is_first():
        return
    valid_top1 = np.asarray(state.valid_top1[: epoch + 1])
    valid_top1 = np.where(np.isfinite(valid_top1), valid_top1, np.nan)
    history = {name: np.asarray(rows[: epoch + 2]) for name, rows in state.history.items()}
    with whole(workdir / HISTORY) as part:
        arrays: dict[str, Any] = {**history, "valid_top1": valid_top1}
        np.savez(part, **arrays)


def _check_cells(num_cells: int) -> None:
    """A genotype has both kinds of cell, so that a supernet without normal cells, which can be timed, has none to give."""
    if len(reductions(num_cells)) == num_cells:
        raise UserError(
            f"config.network.num_cells must be at least 3 for a search, got {num_cells}: both kinds of cell are searched,"
            " and with fewer all are reduction cells"
        )
