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
    run: SearchSettings,
    workdir: WorkDir,
    where: Devices | None = None,
    *,
    change: bool = False,
) -> dict:
    """Searches a cell, or goes on from the newest checkpoint in `workdir`; writes
    genotype.json and summary.json.

    run: the settings. workdir: the directory of the run, which holds everything it
    writes. where: the devices to use, once JAX is configured; None is those of the
    settings. change: goes on with other settings.

    Returns summary.json: {"genotype", "valid_top1" (in %, or None), "epoch" (from 0,
    whose genotype was taken), "steps"}. Raises `Stopped` after a signal, with the state
    saved, and `UserError` for what the user can mend, a divergence too.

    Example: `search(settings.from_config(search_configs.get_config("digits")),
    WorkDir("runs/search"))`, where `search_configs` is configs/search.py.
    """
    _check_cells(run.network.num_cells)
    return run_task(SearchTask(run, workdir, where=where, change=change))


class SearchTask(Task):
    """The search of a cell."""

    split = "valid"
    # The contents of genotype.json, of a searcher that chooses among candidates at the
    # end.
    _chosen: dict[str, Any] | None = None

    def build(self, data: Dataset) -> Program:
        return build.search(self.run, data, where=self.where)

    @property
    def searcher(self) -> Searcher:
        """The searcher, with the columns and cells of alpha that the supernet has."""
        return self.program.step.searcher

    def build_evaluator(self) -> Evaluator | None:
        # Without alphas there is no mixture to evaluate: candidates are scored at the
        # end.
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

    def finish_epoch(
        self, state: SearchState, epoch: int, between_batches: BetweenBatches
    ):
        # Where the search begins anew, a candidate is validated after the last epoch of
        # its training.
        period = self.searcher.restart_epochs or 1
        period_ends = (epoch + 1) % period == 0

        valid: dict[str, Any] = {"top1": None}
        # An epoch that is not validated has ended, too: -inf, as NaN marks one that is
        # still to come.
        top1 = -math.inf
        if self.evaluator is not None and period_ends:
            valid = self.evaluator(
                state.variables, epoch=epoch, between_batches=between_batches
            )
            top1 = valid["top1"]
        record = self.record(state, epoch, result=valid)
        record |= self._describe(state, epoch)

        # Row 0 of the history is alpha before the first epoch.
        history = jax.tree.map(
            lambda rows, alpha: rows.at[epoch + 1].set(alpha),
            state.history,
            state.alphas,
        )
        state = state.replace(
            sums=Sums.zeros(self.program.model.arithmetic.dtype),
            history=history,
            valid_top1=state.valid_top1.at[epoch].set(top1),
        )
        write_history(self.workdir, state, epoch)
        # After the last epoch, too: the run may go on with more of them. The accuracy
        # is not that of the new state.
        if self.searcher.restart_epochs is not None and period_ends:
            number = (epoch + 1) // period
            state = self.program.step.restarted(
                state, first=self.first_state(), number=number
            )
            return state, record, None
        return state, record, valid["top1"]

    def _describe(self, state: SearchState, epoch: int) -> dict[str, Any]:
        """The part of an epoch's record that only a search has: of alpha, and the
        temperature of the epoch.
        """
        described = self.searcher.record(state.alphas)
        progress = Progress(epoch=jnp.asarray(epoch), num_epochs=self.run.num_epochs)
        temperature = self.searcher.temperature(progress)
        if temperature is not None:
            described["temperature"] = float(temperature)
        return described

    def summary(self, state: SearchState) -> dict:
        # A searcher without alphas chooses among candidates; the others have one
        # derived from the history of alpha.
        record = self._chosen
        if record is None:
            history = {**state.history, "valid_top1": state.valid_top1}
            record = taken(self.searcher, rule=rule_of(self.run), history=history)
        write_json(self.workdir / "genotype.json", record)
        # epoch: the one whose alpha was taken; of a searcher without alphas the last.
        return {
            "genotype": {name: record[name] for name in ("normal", "reduce")},
            "valid_top1": record["valid_top1"],
            "epoch": record["epoch"],
            "steps": int(state.step),
        }

    def conclude(self, state: SearchState, between_batches: BetweenBatches) -> None:
        # Its file may have been lost or damaged since the last epoch ended.
        write_history(self.workdir, state, self.run.num_epochs - 1)
        # A searcher may score candidates at the end, by the weights of the last epoch.
        key = run_key(self.run.seed, CANDIDATES)
        finished = self.searcher.finish(
            key, Scores(self, state, between_batches=between_batches)
        )
        if finished is None:
            return
        write_json(self.workdir / "candidates.json", finished.candidates)
        self._chosen = {
            **finished.genotype.to_dict(),
            "epoch": self.run.num_epochs - 1,
            "valid_top1": finished.top1,
        }


class Scores:
    """`scores(weights, batches)`: top-1 in % of the supernet on held-out batches.

    weights: of the layer types, {"normal", "reduce"}, (14, types) each. batches:
    numbers of batches of the search's size; those beyond the last one begin again with
    the first; None takes all of them once. Batch norm normalises by the batch.
    between_batches: is called between two batches; what it raises ends the scoring.
    """

    def __init__(
        self, task: SearchTask, state: SearchState, *, between_batches: BetweenBatches
    ):
        self._task, self._state = task, state
        self._between_batches = between_batches

    @functools.cached_property
    def _evaluator(self) -> Evaluator:
        # Made at the first score: compiled for batches of another size than the
        # evaluation of an epoch.
        task = self._task
        return Evaluator(
            task.program.model,
            task.program.held_out,
            task.data.augmentation,
            task.run,
            where=task.where,
            searcher=task.searcher,
            batch_size=task.run.batch_size,
            batch_statistics=True,
        )

    def __call__(
        self, weights: Mapping[str, np.ndarray], batches: range | None
    ) -> float:
        # Whole batches only: padding would enter the statistics by which batch norm
        # normalises.
        count = len(self._task.program.held_out) // self._task.run.batch_size
        # Each once, however many are wanted.
        numbers = [number % count for number in (batches or range(count))[:count]]

        # A searcher without alphas takes the weights in their place.
        place = self._task.where.place
        placed = {name: place(value) for name, value in weights.items()}
        variables = {**self._state.variables, "alphas": placed}
        # An evaluation by a single batch has nothing between two.
        self._between_batches()
        result = self._evaluator(
            variables, batches=numbers, between_batches=self._between_batches
        )
        return result["top1"]


def write_history(workdir: WorkDir, state: SearchState, epoch: int) -> None:
    """Writes alphas.npz, on the first process alone.

    One array for each cell, (epochs + 1, 14, types): alpha before the first and after
    each epoch until `epoch`. "valid_top1": (epochs,), the validation accuracies in %,
    NaN where there is none.
    """
    if not hosts.is_first():
        return
    valid_top1 = np.asarray(state.valid_top1[: epoch + 1])
    # -inf of epochs without validation is a mark inside a state only.
    valid_top1 = np.where(np.isfinite(valid_top1), valid_top1, np.nan)
    arrays: dict[str, Any] = {"valid_top1": valid_top1}
    for name, rows in state.history.items():
        arrays[name] = np.asarray(rows[: epoch + 2])
    with whole(workdir / HISTORY) as part:
        np.savez(part, **arrays)


def _check_cells(num_cells: int) -> None:
    """A genotype has both kinds of cell, so that a supernet without normal cells, which
    can be timed, has none to give.
    """
    if len(reductions(num_cells)) == num_cells:
        raise UserError(
            "config.network.num_cells must be at least 3 for a search, got "
            f"{num_cells}: both kinds of cell are searched,"
            " and with fewer all are reduction cells"
        )
