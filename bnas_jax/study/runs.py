"""The runs of a study, one after the other.

What is finished is kept; a run that was stopped goes on.
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
    """Makes the runs of a study that are not finished, and writes its table.

    folder: has the work directories of the runs, ROW/SEED/train and ROW/SEED/search,
        and the table, study.json and study.md, which is written anew after each row.
    only: names of rows to run; () is all of them.
    open_workdir: opens the work directory of a run, for instance with the extensions
        that the run is to note.

    The table has every run that is finished. It names the runs that failed, and runs of
    other settings that stand in the place of a row's. Returns the content of
    study.json. Raises `UserError` for a name in `only` that no row has, and for a
    folder that cannot be one of a study.
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
    """Makes the runs of the rows that are not finished; returns those that failed.

    folder, open_workdir: see `run_study`.
    write: writes a table of what is finished; called after each row with the runs that
        failed so far.

    Returns {ROW/SEED: message} of the runs that failed. Raises `UserError` before the
    first run for a config that is no run's, and for a folder that cannot be one of a
    study.
    """
    # A mistake in the last row shows now, not after hours.
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
        # The next row compiles programs of its own; those of this row would stay in
        # memory.
        jax.clear_caches()
        write(failed)
    return failed


def _reason(error: Exception) -> str | None:
    """Why a run failed, where the user or the machine is the reason.

    None for any other error, and for a stop by a signal: these end the study.
    """
    if hasattr(error, "exit_code"):
        return None
    if isinstance(error, UserError):
        return str(error)
    return machine.explain(error)


def make_folder(folder: pathlib.Path) -> None:
    """Makes a study's folder.

    Raises `UserError` where it cannot be made, and where it holds a single run.
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
    """Makes a row's runs with one seed; returns the top-1 of its training, in %.

    A run that is finished is not made again.
    """
    # The search comes first: the training takes the cell that it finds.
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
    print(f"bnas_jax: {text}", file=sys.stderr, flush=True)
