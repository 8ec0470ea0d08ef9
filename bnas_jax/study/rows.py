"""The rows of a study: their runs, with settings and work directories."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from ml_collections import ConfigDict

from bnas_jax import settings
from bnas_jax.core.errors import UserError
from bnas_jax.settings import SearchSettings, TrainSettings

# (seed) -> the config of a run. The study sets `config.seed` in it.
Config = Callable[[int], ConfigDict]


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a study's table: one training for each seed.

    With `search`, each seed first searches a cell, which its training then uses.

    name: the name of the row and of its folder.
    train, search: functions (seed) -> the config of a run.
    seeds: the number of seeds, which are 0, 1, 2, ...
    searched_as: the name of the row whose folder has the searches; by default this row.
        Rows with the same `searched_as` share their searches.

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
                    f"{field} of the row {self.name!r} must be a function from a seed "
                    f"to a config, got {function!r}"
                )
        if self.seeds < 1:
            raise UserError(
                f"seeds of the row {self.name!r} must be at least 1, got {self.seeds}"
            )

    def training_in(self, folder: pathlib.Path, seed: int) -> pathlib.Path:
        """The work directory of the training with a seed. folder: the study's."""
        return folder / self.name / str(seed) / "train"

    def search_in(self, folder: pathlib.Path, seed: int) -> pathlib.Path:
        """The work directory of the search with a seed. folder: the study's."""
        return folder / (self.searched_as or self.name) / str(seed) / "search"


@dataclasses.dataclass(frozen=True)
class Study:
    """Rows to compare with each other.

    title: the heading of the table.
    rows: the rows in the order of the table.
    baseline: the name of the row that all others are compared with, or None.
    """

    title: str
    rows: tuple[Row, ...]
    baseline: str | None = None

    def __post_init__(self):
        names = [row.name for row in self.rows]
        for name in names:
            # The names of rows are the names of their folders.
            if names.count(name) > 1:
                raise UserError(
                    f"the study has two rows of the name {name!r}; write another one"
                )
        if self.baseline is not None and self.baseline not in names:
            raise UserError(
                f"baseline={self.baseline!r} is not a row of the study; write one of "
                f"{', '.join(names)}"
            )


def chosen_rows(rows: Sequence[Row], only: Sequence[str]) -> list[Row]:
    """The rows with the names in `only`; all rows if `only` is empty.

    Raises `UserError` for a name that no row has.
    """
    names = [row.name for row in rows]
    for name in only:
        if name not in names:
            raise UserError(
                f"the study has no row {name!r}; write one of {', '.join(names)}"
            )
    return [row for row in rows if not only or row.name in only]


def check_configs(row: Row) -> None:
    """Raises `UserError` for a row whose configs with seed 0 are not valid."""
    config = _config(row, row.train, seed=0)
    if row.search is not None:
        _settings(_config(row, row.search, seed=0), seed=0, kind=SearchSettings)
        # Any cell will do in place of the one that the search will find.
        config.network.genotype = "latest_cell"
    _settings(config, seed=0, kind=TrainSettings)


def search_settings(row: Row, *, seed: int) -> SearchSettings:
    """The settings of a row's search."""
    assert row.search is not None, f"{row.name} has none"
    return _settings(_config(row, row.search, seed), seed=seed, kind=SearchSettings)


def training_settings(row: Row, *, folder: pathlib.Path, seed: int) -> TrainSettings:
    """The settings of a row's training.

    If the row has a search, it must have finished: the training reads the genotype from
    its work directory.
    """
    config = _config(row, row.train, seed)
    if row.search is not None:
        config.network.genotype = str(row.search_in(folder, seed))
    return _settings(config, seed=seed, kind=TrainSettings)


def _config(row: Row, function: Config, seed: int) -> ConfigDict:
    """The config that a function of the row returns for a seed."""
    try:
        config = function(seed)
    except UserError:
        raise
    # The function may be a user's, so that any error is possible.
    except Exception as error:
        raise UserError(
            f"the function of the row {row.name!r} ended with {type(error).__name__}: "
            f"{error}"
        ) from error
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"the function of the row {row.name!r} gives a {type(config).__name__}, "
            "not a config such as train.get_config('digits')"
        )
    return config


def _settings(config: ConfigDict, *, seed: int, kind: type) -> Any:
    """The settings of a config, with a seed.

    Raises `UserError` for a config of the other kind.

    kind: `SearchSettings` or `TrainSettings`.
    """
    config.seed = seed
    run = settings.from_config(config)
    if not isinstance(run, kind):
        task = "train"
        if kind is SearchSettings:
            task = "search"
        raise UserError(
            f"`{task}` of a row needs a config such as configs/{task}.py:digits"
        )
    return run
