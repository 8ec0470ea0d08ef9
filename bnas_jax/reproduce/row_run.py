"""The runs of a row with one seed: their settings, and what a folder has of them."""

import dataclasses
import functools
import pathlib

from bnas_jax import counting
from bnas_jax.core.errors import UserError
from bnas_jax.settings import Settings, TrainSettings
from bnas_jax.study import Row
from bnas_jax.study.results import is_finished
from bnas_jax.study.rows import search_settings, training_settings
from bnas_jax.workdir import RunDirectory


@dataclasses.dataclass(frozen=True)
class RowRun:
    """A row's runs with one seed, whether they have been made or not.

    folder: the folder of the runs of all rows.
    """

    row: Row
    folder: pathlib.Path
    seed: int

    @functools.cached_property
    def search(self) -> RunDirectory | None:
        """The search, once it has ended; None before, and for a row without one."""
        return self._of_search[0]

    @functools.cached_property
    def run(self) -> TrainSettings | None:
        """The settings of the training, ended or to come.

        None while the search has not found its cell yet.
        """
        if self.row.search is not None and self.search is None:
            return None
        return training_settings(self.row, folder=self.folder, seed=self.seed)

    @functools.cached_property
    def training(self) -> RunDirectory | None:
        """The training, once it has ended; None before."""
        return self._of_training[0]

    @property
    def not_shown(self) -> str:
        """What is wrong with a run of other settings that stands in the place of a run.

        Empty where there is no such run.
        """
        return self._of_search[1] or self._of_training[1]

    @functools.cached_property
    def counted(self) -> dict | None:
        """What `cost` counts of the network.

        None while its cell, the size of its images or the number of classes is not
        known.
        """
        if self.run is None:
            return None
        # A training that has ended says what its images were.
        sizes = counting.known_sizes(self.run.dataset)
        if self.training is not None:
            facts = self.training.facts()
            side, _, channels = facts["image_shape"]
            sizes |= {"image_size": side, "image_channels": channels}
            sizes["num_classes"] = facts["num_classes"]
        if not {"image_size", "num_classes"} <= set(sizes):
            return None
        return _counts(self.run, tuple(sizes.items()))

    @functools.cached_property
    def _of_search(self) -> tuple[RunDirectory | None, str]:
        """(the search that has ended, what is wrong with a run in its place)."""
        if self.row.search is None:
            return None, ""
        path = self.row.search_in(self.folder, self.seed)
        return _ended(search_settings(self.row, seed=self.seed), path)

    @functools.cached_property
    def _of_training(self) -> tuple[RunDirectory | None, str]:
        """(the training that has ended, what is wrong with a run in its place)."""
        if self.run is None:
            return None, ""
        return _ended(self.run, self.row.training_in(self.folder, self.seed))


def _ended(run: Settings, path: pathlib.Path) -> tuple[RunDirectory | None, str]:
    """(the run that has ended, what is wrong with a run of other settings there).

    The first is None where the run has not ended, or is another one. The second is
    empty without another one.
    """
    try:
        ended = is_finished(run, path)
    except UserError as error:
        return None, str(error)
    if not ended:
        return None, ""
    return RunDirectory(path), ""


# Cached: a table is written after each of its rows, and counting takes a second.
@functools.lru_cache(maxsize=64)
def _counts(run: TrainSettings, sizes: tuple[tuple[str, int], ...]) -> dict:
    """What `cost` counts of a network. sizes: (name, size) of the data."""
    options = dict.fromkeys(counting.OPTIONS) | dict(sizes)
    _, totals = counting.counts(run, options)
    return totals
