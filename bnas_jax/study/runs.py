"""Runs a study, one run after the other.

Finished runs are not repeated, and interrupted runs are continued.
"""

import contextlib
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax

from bnas_jax import machine
from bnas_jax.core.errors import UserError
from bnas_jax.study.results import is_finished, write_study
from bnas_jax.study.rows import (
    Row,
    Study,
    check_configs,
    chosen_rows,
    search_settings,
    training_settings,
)
from bnas_jax.training.search import search
from bnas_jax.training.train import train
from bnas_jax.training.workdir import WorkDir
from bnas_jax.workdir import RunDirectory

# A function that opens the work directory of a run.
OpenWorkDir = Callable[[pathlib.Path], WorkDir]


def run_study(
    study: Study,
    folder: pathlib.Path,
    *,
    only: tuple[str, ...] = (),
    open_workdir: OpenWorkDir = WorkDir,
) -> dict:
    """Runs what is missing of a study, and writes its table.

    The table has all finished runs. It also names failed runs, and directories that
    hold a run of other settings. Returns the contents of study.json.

    folder: has the work directories ROW/SEED/train and ROW/SEED/search of the runs, and
        the table, study.json and study.md, which is updated after each row.
    only: the names of the rows to run; () means all.
    open_workdir: (path) -> the work directory of a run, for instance one that notes the
        loaded extensions.

    Raises `UserError` for a name in `only` that no row has, and for a folder that
    cannot be written or holds a single run.
    """

    def write(failed: dict[str, str]) -> dict:
        return write_study(study, folder=folder, failed=failed)

    rows = chosen_rows(study.rows, only)
    failed = run_rows(rows, folder, write=write, open_workdir=open_workdir)
    return write(failed)


def run_rows(
    rows: Sequence[Row],
    folder: pathlib.Path,
    *,
    write: Callable[[dict[str, str]], Any],
    open_workdir: OpenWorkDir = WorkDir,
) -> dict[str, str]:
    """Runs what is missing of some rows; returns {ROW/SEED: message} of failed runs.

    folder, open_workdir: see `run_study`.
    write: writes the table of all finished runs. It is called after each row with the
        runs that have failed so far.

    Raises `UserError` before the first run for an invalid config, and for a folder that
    cannot be written or holds a single run.
    """
    # An error in the last row shows now, and not after hours.
    for row in rows:
        check_configs(row)
    make_folder(folder)

    # A run that fails does not stop the others.
    failed: dict[str, str] = {}
    for row in rows:
        for seed in range(row.seeds):
            try:
                top1 = _run(row, seed=seed, folder=folder, open_workdir=open_workdir)
            except Exception as error:
                message = _reason(error)
                if message is None:
                    raise
                failed[f"{row.name}/{seed}"] = message
                _say(f"{row.name}, seed {seed} failed: {message}")
            else:
                _say(f"{row.name}, seed {seed}: {top1:.2f} %")
        # The next row compiles its own programs. Free those of this row.
        jax.clear_caches()
        write(failed)
    return failed


def _reason(error: Exception) -> str | None:
    """Why a run failed, if the user or the machine is the cause.

    None for a bug, and for a stop by a signal. These end the study.
    """
    if hasattr(error, "exit_code"):
        return None
    if isinstance(error, UserError):
        return str(error)
    return machine.explain(error)


def make_folder(folder: pathlib.Path) -> None:
    """Creates a study's folder.

    Raises `UserError` if it cannot be created, or if it holds a single run.
    """
    if WorkDir(folder).exists():
        raise UserError(f"{folder} holds a single run; choose another --workdir")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write to the work directory {folder} ({error.strerror}); choose "
            "another"
        ) from error


def _run(
    row: Row, *, seed: int, folder: pathlib.Path, open_workdir: OpenWorkDir
) -> float:
    """Runs what is missing of a row with one seed; returns the top-1 accuracy in %."""
    # The search comes first, because the training uses its cell.
    if row.search is not None:
        found = row.search_in(folder, seed)
        of_search = search_settings(row, seed=seed)
        if not is_finished(of_search, found):
            with contextlib.closing(open_workdir(found)) as workdir:
                search(of_search, workdir)

    # The training.
    run = training_settings(row, folder=folder, seed=seed)
    trained = row.training_in(folder, seed)
    if not is_finished(run, trained):
        with contextlib.closing(open_workdir(trained)) as workdir:
            train(run, workdir)

    summary = RunDirectory(trained).summary()
    assert summary is not None, "a run that has ended leaves one"
    return summary["top1"]


def _say(text: str) -> None:
    """Prints a line of the log."""
    print(f"bnas_jax: {text}", file=sys.stderr, flush=True)
