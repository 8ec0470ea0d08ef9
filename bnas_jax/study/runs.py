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

# How the work directory of a run is opened.
OpenWorkDir = Callable[[pathlib.Path], WorkDir]


def run_study(
    study: Study,
    folder: pathlib.Path,
    *,
    only: tuple[str, ...] = (),
    open_workdir: OpenWorkDir = WorkDir,
) -> dict:
    """Makes all runs that are not finished; writes folder/study.json and study.md,
    after each row anew.

    folder: for a work directory of each run, ROW/SEED/train and ROW/SEED/search. only:
    names of rows to run; () is all of them. open_workdir: opens such a directory, with
    the extensions that its run is to note, for instance.

    The table has every run that is finished; it names those that failed, and runs of
    other settings that stand in the place of one. Returns the content of study.json.
    Raises `UserError` for a name in `only` that no row has, and for a folder that
    cannot be one of a study.
    """
    rows = chosen_rows(study.rows, only)
    write = lambda failed: write_study(study, folder=folder, failed=failed)
    return write(run_rows(rows, folder, write=write, open_workdir=open_workdir))


def run_rows(
    rows: Sequence[Row],
    folder: pathlib.Path,
    *,
    write: Callable[[dict[str, str]], Any],
    open_workdir: OpenWorkDir = WorkDir,
) -> dict[str, str]:
    """Makes all runs of the rows that are not finished; returns {ROW/SEED: message} of
    those that failed.

    folder, open_workdir: see `run_study`. write: called with the same after each row,
    to write a table of what is finished. Raises `UserError` before the first run for a
    config that is no run's, and for a folder that cannot be one of a study.
    """
    # A mistake in the last row shows now, not after hours.
    for row in rows:
        check_configs(row)
    make_folder(folder)

    failed: dict[str, str] = {}
    for row in rows:
        for seed in range(row.seeds):
            # A run that fails does not stop the others, where the user or the machine
            # is why.
            try:
                top1 = _run(row, seed=seed, folder=folder, open_workdir=open_workdir)
            except Exception as error:
                message = (
                    str(error)
                    if isinstance(error, UserError)
                    else machine.explain(error)
                )
                if message is None or hasattr(error, "exit_code"):
                    raise
                failed[f"{row.name}/{seed}"] = message
                _say(f"{row.name}, seed {seed} failed: {message}")
            else:
                _say(f"{row.name}, seed {seed}: {top1:.2f} %")
        # What the next row needs is compiled anew; what this one did would stay in
        # memory.
        jax.clear_caches()
        write(failed)
    return failed


def make_folder(folder: pathlib.Path) -> None:
    """Makes a study's folder; `UserError` for one that cannot be made, or that a single
    run has.
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
    """Top-1 in % of a row's training with that seed, after its search; what is finished
    is not run again.
    """
    if row.search is not None:
        found = row.search_in(folder, seed)
        of_search = search_settings(row, seed=seed)
        if not is_finished(of_search, found):
            with contextlib.closing(open_workdir(found)) as workdir:
                search(of_search, workdir)

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
