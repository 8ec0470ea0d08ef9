"""`search`: searches a cell, from settings to genotype.json (section 5.1)."""

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
from bnas_jax.training.restarts import restarted
from bnas_jax.training.state import CANDIDATES, SearchState, Sums, run_key
from bnas_jax.training.task import BetweenBatches, Task, run_task
from bnas_jax.training.workdir import WorkDir, write_json
from bnas_jax.workdir.files import whole
from bnas_jax.workdir.history import HISTORY


def search(
    run: SearchSettings,
    workdir: WorkDir,
    where: Devices | None = None,
    *,
    change: bool = False,
) -> dict:
    """Searches a cell; writes genotype.json and summary.json.

    A search that was started before continues from the newest checkpoint in `workdir`.
    Returns summary.json: {"genotype", "valid_top1" (in %, or None), "epoch" (from 0,
    whose alpha the genotype is derived from), "steps"}.

    run: the settings.
    workdir: the work directory, into which everything is written.
    where: the devices, if JAX is configured already; None takes those of the settings.
    change: whether the run may continue with other settings.

    Raises `Stopped` after a signal, once the state is saved, and `UserError` for
    mistakes that the user can correct and for a divergence.

    Example: `search(settings.from_config(search_configs.get_config("digits")),
    WorkDir("runs/search"))`, where `search_configs` is configs/search.py.
    """
    _check_cells(run.network.num_cells)
    return run_task(SearchTask(run, workdir, where=where, change=change))


class SearchTask(Task):
    """The task of a search."""

    split = "valid"
    # The contents of genotype.json, if the searcher scores candidates at the end.
    _chosen: dict[str, Any] | None = None

    def build(self, data: Dataset) -> Program:
        return build.search(self.run, data, where=self.where)

    @property
    def searcher(self) -> Searcher:
        """The searcher, with alpha for the layer types and cells of the supernet."""
        return self.program.step.searcher

    def build_evaluator(self) -> Evaluator | None:
        # Without alphas there is no mixture to evaluate; candidates are scored at the
        # end.
        if self.program.held_out is None or not self.searcher.has_alphas:
            return None

        # Validation images may be augmented as in training.
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
        # If the search restarts for each candidate, a candidate is validated after the
        # last epoch of its period.
        period = self.searcher.restart_epochs or 1
        period_ends = (epoch + 1) % period == 0

        # The validation, if there is one, and the epoch's record.
        valid: dict[str, Any] = {"top1": None}
        # -inf is for a finished epoch without validation, NaN for an epoch to come.
        top1 = -math.inf
        if self.evaluator is not None and period_ends:
            valid = self.evaluator(
                state.variables, epoch=epoch, between_batches=between_batches
            )
            top1 = valid["top1"]
        record = self.record(state, epoch, result=valid)
        record |= self._describe(state, epoch)

        # The state of the next epoch. Row 0 of the history is alpha before the first
        # epoch.
        with_alpha = lambda rows, alpha: rows.at[epoch + 1].set(alpha)
        history = jax.tree.map(with_alpha, state.history, state.alphas)
        state = state.replace(
            sums=Sums.zeros(self.program.model.arithmetic.dtype),
            history=history,
            valid_top1=state.valid_top1.at[epoch].set(top1),
        )
        write_history(self.workdir, state, epoch)

        # Start the next candidate. This is done after the last epoch, too, as the run
        # may be continued with more epochs. The new state has no accuracy yet.
        if self.searcher.restart_epochs is not None and period_ends:
            number = (epoch + 1) // period
            first = self.first_state()
            step = self.program.step
            state = restarted(step, state, first=first, number=number)
            return state, record, None
        return state, record, valid["top1"]

    def _describe(self, state: SearchState, epoch: int) -> dict[str, Any]:
        """The entries of an epoch's record that only a search has.

        They are about alpha, and the temperature of the epoch.
        """
        described = self.searcher.record(state.alphas)
        progress = Progress(epoch=jnp.asarray(epoch), num_epochs=self.run.num_epochs)
        temperature = self.searcher.temperature(progress)
        if temperature is not None:
            described["temperature"] = float(temperature)
        return described

    def summary(self, state: SearchState) -> dict:
        # A searcher without alphas has chosen a candidate. For all others, derive the
        # genotype from the history of alpha.
        record = self._chosen
        if record is None:
            history = {**state.history, "valid_top1": state.valid_top1}
            record = taken(self.searcher, rule=rule_of(self.run), history=history)
        write_json(self.workdir / "genotype.json", record)

        # "epoch" is the epoch of that alpha, or the last one for a searcher without
        # alphas.
        return {
            "genotype": {name: record[name] for name in ("normal", "reduce")},
            "valid_top1": record["valid_top1"],
            "epoch": record["epoch"],
            "steps": int(state.step),
        }

    def conclude(self, state: SearchState, between_batches: BetweenBatches) -> None:
        # Write alphas.npz again: it may have been lost or damaged.
        last = self.run.num_epochs - 1
        write_history(self.workdir, state, last)

        # The searcher may score candidates, with the weights of the last epoch.
        key = run_key(self.run.seed, CANDIDATES)
        scores = Scores(self, state, between_batches=between_batches)
        finished = self.searcher.finish(key, scores)
        if finished is None:
            return
        write_json(self.workdir / "candidates.json", finished.candidates)
        self._chosen = {
            **finished.genotype.to_dict(),
            "epoch": last,
            "valid_top1": finished.top1,
        }


class Scores:
    """`scores(weights, batches)`: top-1 in % of the supernet on held-out batches.

    Batch norm normalises by the batch.

    weights: the mixture weights, {"normal", "reduce"}, (14, types) each.
    batches: numbers of batches of the search's batch size. After the last batch follows
        the first one again. None takes all batches once.
    between_batches: called between two batches; an exception that it raises ends the
        scoring.
    """

    def __init__(
        self, task: SearchTask, state: SearchState, *, between_batches: BetweenBatches
    ):
        self._task, self._state = task, state
        self._between_batches = between_batches

    @functools.cached_property
    def _evaluator(self) -> Evaluator:
        # Built at the first score. Its batches have another size than those of the
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
        # Only whole batches: padding would be part of the batch statistics. Each batch
        # is taken at most once.
        count = len(self._task.program.held_out) // self._task.run.batch_size
        wanted = batches or range(count)
        numbers = [number % count for number in wanted[:count]]

        # `Random.weights` returns "alphas" as the mixture weights.
        place = self._task.where.place
        placed = {name: place(value) for name, value in weights.items()}
        variables = {**self._state.variables, "alphas": placed}

        # An evaluation on a single batch does not call it.
        self._between_batches()
        result = self._evaluator(
            variables, batches=numbers, between_batches=self._between_batches
        )
        return result["top1"]


def write_history(workdir: WorkDir, state: SearchState, epoch: int) -> None:
    """Writes alphas.npz, only on the first process.

    It has an array for each cell, (epochs + 1, 14, types): alpha before the first epoch
    and after each epoch up to `epoch`. "valid_top1", (epochs,), are the validation
    accuracies in %, or NaN.
    """
    if not hosts.is_first():
        return

    # Epochs without validation have -inf in a state, NaN in the file.
    valid_top1 = np.asarray(state.valid_top1[: epoch + 1])  # (epochs,)
    valid_top1 = np.where(np.isfinite(valid_top1), valid_top1, np.nan)
    arrays: dict[str, Any] = {"valid_top1": valid_top1}
    for name, rows in state.history.items():
        arrays[name] = np.asarray(rows[: epoch + 2])  # (epochs + 1, 14, types)
    with whole(workdir / HISTORY) as part:
        np.savez(part, **arrays)


def _check_cells(num_cells: int) -> None:
    """Raises `UserError` for a supernet that has no normal cells.

    Such a supernet cannot give a genotype, which has a normal cell, too. But benchmarks
    may time it.
    """
    if len(reductions(num_cells)) == num_cells:
        raise UserError(
            "config.network.num_cells must be at least 3 for a search, got "
            f"{num_cells}: both kinds of cell are searched, and with fewer all are "
            "reduction cells"
        )
