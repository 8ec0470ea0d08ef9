"""Searching a cell, from settings to genotype.json in the work directory (section 5.1)."""

from typing import Any

import jax
import numpy as np

from bnas_jax.core.errors import UserError
from bnas_jax.core.stack import reductions
from bnas_jax.data.load import Dataset
from bnas_jax.runtime import hosts
from bnas_jax.runtime.devices import Devices
from bnas_jax.settings import SearchSettings
from bnas_jax.training import build
from bnas_jax.training.build import Program
from bnas_jax.training.derive import rule_of, taken
from bnas_jax.training.evaluate import Evaluator
from bnas_jax.training.state import SearchState, Sums
from bnas_jax.training.task import BetweenBatches, Task, run_task
from bnas_jax.training.workdir import WorkDir, whole, write_json
from bnas_jax.workdir.history import HISTORY


def search(run: SearchSettings, workdir: WorkDir, where: Devices | None = None, *, change: bool = False) -> dict:
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

    def build_evaluator(self) -> Evaluator:
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
        valid = self.evaluator(state.variables, epoch=epoch, between_batches=between_batches)
        record = self.record(state, epoch, valid) | self.program.step.searcher.record(state.alphas)
        state = state.replace(
            sums=Sums.zeros(self.program.model.arithmetic.dtype),
            history=jax.tree.map(lambda rows, alpha: rows.at[epoch + 1].set(alpha), state.history, state.alphas),
            valid_top1=state.valid_top1.at[epoch].set(valid["top1"]),
        )
        write_history(self.workdir, state, epoch)
        return state, record, valid["top1"]

    def summary(self, state: SearchState) -> dict:
        history = {**state.history, "valid_top1": state.valid_top1}
        record = taken(self.program.step.searcher, rule_of(self.run), history)
        write_json(self.workdir / "genotype.json", record)
        return {
            "genotype": {name: record[name] for name in ("normal", "reduce")},
            "valid_top1": record["valid_top1"],
            "epoch": record["epoch"],
            "steps": int(state.step),
        }


def write_history(workdir: WorkDir, state: SearchState, epoch: int) -> None:
    """alphas.npz: alpha before the first and after each epoch, and the validation accuracies in %."""
    if not hosts.is_first():
        return
    history = {name: np.asarray(rows[: epoch + 2]) for name, rows in state.history.items()}
    with whole(workdir / HISTORY) as part:
        arrays: dict[str, Any] = {**history, "valid_top1": np.asarray(state.valid_top1[: epoch + 1])}
        np.savez(part, **arrays)


def _check_cells(num_cells: int) -> None:
    """A genotype has both kinds of cell, so that a supernet without normal cells, which can be timed, has none to give."""
    if len(reductions(num_cells)) == num_cells:
        raise UserError(
            f"config.network.num_cells must be at least 3 for a search, got {num_cells}: both kinds of cell are searched,"
            " and with fewer all are reduction cells"
        )
