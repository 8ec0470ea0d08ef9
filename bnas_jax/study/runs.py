"""The runs of a study, one after the other. What is finished is kept; a run that was stopped goes on."""

import contextlib
import dataclasses
import pathlib
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from bnas_jax import machine, settings
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import from_dict
from bnas_jax.core.layers import learnable_share
from bnas_jax.runtime import hosts
from bnas_jax.settings import SearchSettings, TrainSettings
from bnas_jax.study.table import figures, markdown, mean_of
from bnas_jax.training.search import search
from bnas_jax.training.train import train
from bnas_jax.training.workdir import WorkDir
from bnas_jax.workdir import RunDirectory
from bnas_jax.workdir.files import whole, write_whole

# A seed -> the config of a run; `config.seed` is set afterwards.
Config = Callable[[int], ConfigDict]
# How the work directory of a run is opened.
Open = Callable[[pathlib.Path], WorkDir]
# Section 4.3 looks at the first 20 of 50 epochs.
EARLY = 0.4


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a study's table: one training for each seed. With `search`, each seed first searches a cell, which its
    training then uses.

    name: of the row and of its folder. train, search: functions from a seed to the config of a run. seeds: their number; they
    are 0, 1, 2, ... searched_as: the name of the search's folder, by default the row's own; rows of the same one share it.
    Example: `Row("xnor", train=lambda seed: train.get_config("digits"), seeds=3)`.
    """

    name: str
    train: Config
    search: Config | None = None
    seeds: int = 5
    searched_as: str | None = None

    def __post_init__(self):
        for field, function in (("train", self.train), ("search", self.search)):
            if function is not None and not callable(function):
                raise UserError(
                    f"{field} of the row {self.name!r} must be a function from a seed to a config, got {function!r}"
                )
        if self.seeds < 1:
            raise UserError(f"seeds of the row {self.name!r} must be at least 1, got {self.seeds}")

    def training_in(self, folder: pathlib.Path, seed: int) -> pathlib.Path:
        """The work directory of its training with that seed, in the study's folder."""
        return folder / self.name / str(seed) / "train"

    def search_in(self, folder: pathlib.Path, seed: int) -> pathlib.Path:
        """The work directory of its search with that seed, in the study's folder."""
        return folder / (self.searched_as or self.name) / str(seed) / "search"


@dataclasses.dataclass(frozen=True)
class Study:
    """Rows to compare with each other. rows: in the order of the table. baseline: the name of the row that all others are
    compared with, None for none."""

    title: str
    rows: tuple[Row, ...]
    baseline: str | None = None

    def __post_init__(self):
        names = [row.name for row in self.rows]
        for name in names:
            # It is the name of the row's folder.
            if names.count(name) > 1:
                raise UserError(f"the study has two rows of the name {name!r}; write another one")
        if self.baseline is not None and self.baseline not in names:
            raise UserError(
                f"baseline={self.baseline!r} is no row of the study; write one of {', '.join(names)}"
            )


def make_folder(folder: pathlib.Path) -> None:
    """Makes a study's folder; `UserError` for one that cannot be made, or that a single run has."""
    if WorkDir(folder).exists():
        raise UserError(f"{folder} holds a single run; choose another --workdir")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write to the work directory {folder} ({error.strerror}); choose another"
        ) from error


def run_study(
    study: Study,
    folder: pathlib.Path,
    *,
    only: tuple[str, ...] = (),
    open_workdir: Open = WorkDir,
) -> dict:
    """Makes all runs that are not finished; writes folder/study.json and study.md, after each row anew.

    folder: for a work directory of each run, ROW/SEED/train and ROW/SEED/search. only: names of rows to run; () is all of
    them. open_workdir: opens such a directory, with the extensions that its run is to note, for instance.

    The table has every run that is finished; it names those that failed, and runs of other settings that stand in the place
    of one. Returns the content of study.json. Raises `UserError` for a name in `only` that no row has, and for a folder that
    cannot be one of a study.
    """
    rows = chosen_rows(study.rows, only)
    write = lambda failed: _write(study, folder=folder, failed=failed)
    return write(run_rows(rows, folder, write=write, open_workdir=open_workdir))


def run_rows(
    rows: Sequence[Row],
    folder: pathlib.Path,
    *,
    write: Callable[[dict[str, str]], Any],
    open_workdir: Open = WorkDir,
) -> dict[str, str]:
    """Makes all runs of the rows that are not finished; returns {ROW/SEED: message} of those that failed.

    folder, open_workdir: see `run_study`. write: called with the same after each row, to write a table of what is finished.
    Raises `UserError` before the first run for a config that is no run's, and for a folder that cannot be one of a study.
    """
    # A mistake in the last row shows now, not after hours.
    for row in rows:
        check_configs(row)
    make_folder(folder)

    failed: dict[str, str] = {}
    for row in rows:
        for seed in range(row.seeds):
            # A run that fails does not stop the others, where the user or the machine is why.
            try:
                top1 = _run(row, seed=seed, folder=folder, open_workdir=open_workdir)
            except Exception as error:
                message = str(error) if isinstance(error, UserError) else machine.explain(error)
                if message is None or hasattr(error, "exit_code"):
                    raise
                failed[f"{row.name}/{seed}"] = message
                _say(f"{row.name}, seed {seed} failed: {message}")
            else:
                _say(f"{row.name}, seed {seed}: {top1:.2f} %")
        # What the next row needs is compiled anew; what this one did would stay in memory.
        jax.clear_caches()
        write(failed)
    return failed


def chosen_rows(rows: Sequence[Row], only: Sequence[str]) -> list[Row]:
    """The rows of these names, all without any; `UserError` for a name that no row has."""
    names = [row.name for row in rows]
    for name in only:
        if name not in names:
            raise UserError(f"the study has no row {name!r}; write one of {', '.join(names)}")
    return [row for row in rows if not only or row.name in only]


def check_configs(row: Row) -> None:
    """`UserError` for a row whose first configs are no settings of a run."""
    config = _config(row, row.train, seed=0)
    if row.search is not None:
        _settings(_config(row, row.search, seed=0), seed=0, kind=SearchSettings)
        # Stands in for the cell that is yet to be found.
        config.network.genotype = "latest_cell"
    _settings(config, seed=0, kind=TrainSettings)


def _config(row: Row, function: Config, seed: int) -> ConfigDict:
    """The config that a function of the row gives for a seed."""
    try:
        config = function(seed)
    except UserError:
        raise
    # A user's function, which may raise anything.
    except Exception as error:
        raise UserError(
            f"the function of the row {row.name!r} ended with {type(error).__name__}: {error}"
        ) from error
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"the function of the row {row.name!r} gives a {type(config).__name__}, not a config such as"
            " train.get_config('digits')"
        )
    return config


def _write(study: Study, *, folder: pathlib.Path, failed: dict[str, str]) -> dict:
    """The table of all runs that are finished, as study.json and study.md."""
    # Of all rows, whichever are run this time.
    accuracies: dict[str, dict[int, float]] = {}
    not_shown = {}
    for row in study.rows:
        accuracies[row.name] = {}
        for seed in range(row.seeds):
            try:
                summary = result_of(row, folder=folder, seed=seed)
            # Its accuracy is none of this row's.
            except UserError as error:
                not_shown[f"{row.name}/{seed}"] = str(error)
                continue
            if summary is not None:
                accuracies[row.name][seed] = summary["top1"]
    found = figures(accuracies, baseline=study.baseline)
    # Those that were to be run now have failed for the same reason.
    not_shown = {name: why for name, why in not_shown.items() if name not in failed}
    result: dict[str, Any] = {
        "title": study.title,
        "failed": failed,
        "not_shown": not_shown,
        **found,
    }

    # The shares of layers with weights: of the searches' first epochs (section 4.3), and of the cells that were trained.
    rows = {row.name: row for row in study.rows}
    for line in result["rows"]:
        row = rows[line["name"]]
        seeds = accuracies[row.name]
        searches = [row.search_in(folder, seed) for seed in seeds]
        trainings = [row.training_in(folder, seed) for seed in seeds]
        shares = {
            "early_learnable_share": _mean(map(early_learnable_share, searches)),
            "learnable_share": _mean(map(_cell_share, trainings)),
        }
        line.update({name: share for name, share in shares.items() if share is not None})

    write_table(folder, "study", result=result, text=markdown(result))
    return result


def write_table(folder: pathlib.Path, name: str, *, result: dict, text: str) -> None:
    """Writes folder/NAME.json and NAME.md, whole or not at all, on the first process alone."""
    if not hosts.is_first():
        return
    write_whole(folder / f"{name}.json", result)
    with whole(folder / f"{name}.md") as part:
        part.write_text(text)


def result_of(row: Row, *, folder: pathlib.Path, seed: int) -> dict | None:
    """summary.json of a row's training with that seed, None where it, or its search, has not ended.

    Raises `UserError` where a run of other settings stands in the place of one of them.
    """
    if row.search is not None:
        found = row.search_in(folder, seed)
        if not is_finished(search_settings(row, seed=seed), found):
            return None
    trained = row.training_in(folder, seed)
    if not is_finished(training_settings(row, folder=folder, seed=seed), trained):
        return None
    return RunDirectory(trained).summary()


def _mean(shares: Iterable[float | None]) -> float | None:
    """The mean of those that are known, None where none is."""
    return mean_of([share for share in shares if share is not None])


def _cell_share(path: pathlib.Path) -> float | None:
    """The share of layers with weights in the cells of a training, None of a network without cells."""
    genotype = RunDirectory(path).config()["network"].get("genotype")
    if genotype is None:
        return None
    return learnable_share(from_dict(genotype))


def early_learnable_share(path: pathlib.Path) -> float | None:
    """The share of layers with weights in the genotypes of a search's first 40 % of epochs (section 4.3), from 0 to 1.

    None where its records say nothing of it, as those of a random search.
    """
    records = RunDirectory(path).read_metrics()
    shares = [record["learnable_share"] for record in records if "learnable_share" in record]
    # At least one epoch of a short search.
    count = max(1, round(EARLY * len(shares)))
    early = shares[:count]
    return _mean(early)


def _run(row: Row, *, seed: int, folder: pathlib.Path, open_workdir: Open) -> float:
    """Top-1 in % of a row's training with that seed, after its search; what is finished is not run again."""
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


def search_settings(row: Row, *, seed: int) -> SearchSettings:
    """The settings of a row's search."""
    assert row.search is not None, f"{row.name} has none"
    return _settings(_config(row, row.search, seed), seed=seed, kind=SearchSettings)


def training_settings(row: Row, *, folder: pathlib.Path, seed: int) -> TrainSettings:
    """The settings of a row's training. Its search, where it has one, must have ended: its work directory is the genotype."""
    config = _config(row, row.train, seed)
    if row.search is not None:
        config.network.genotype = str(row.search_in(folder, seed))
    return _settings(config, seed=seed, kind=TrainSettings)


def _settings(config: ConfigDict, *, seed: int, kind: type) -> Any:
    """The settings of a run with that seed; `UserError` where the row has a search in place of a training, or the reverse."""
    config.seed = seed
    run = settings.from_config(config)
    if not isinstance(run, kind):
        task = "train"
        if kind is SearchSettings:
            task = "search"
        raise UserError(f"`{task}` of a row needs a config such as configs/{task}.py:digits")
    return run


def is_finished(run: settings.Settings, path: pathlib.Path) -> bool:
    """Whether a run has ended there; `UserError` for one of other settings."""
    if RunDirectory(path).summary() is None:
        return False
    # A finished run of other settings is not overwritten.
    # By way of the settings: a config of an older version lacks those that are new since.
    stored = settings.to_dict(settings.from_config(RunDirectory(path).config()))
    difference = settings.first_difference(settings.to_dict(run), stored)
    if difference is not None:
        raise UserError(f"{path} belongs to another run: {difference}; choose another --workdir")
    return True


def _say(text: str) -> None:
    print(f"bnas_jax: {text}", file=sys.stderr, flush=True)
