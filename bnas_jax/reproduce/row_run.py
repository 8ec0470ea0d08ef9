"""The runs of a row with one seed: their settings, and what there is of them in a
folder.
"""

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
    """A row's runs with one seed, whether they have been made or not. folder: of all
    rows.
    """

    row: Row
    folder: pathlib.Path
    seed: int

    @functools.cached_property
    def search(self) -> RunDirectory | None:
        """The search that has ended; None before that, and for a row without one."""
        return self._of_search[0]

    @functools.cached_property
    def run(self) -> TrainSettings | None:
        """The settings of the training, ended or to come; None while its cell is not
        found yet.
        """
        if self.row.search is not None and self.search is None:
            return None
        return training_settings(self.row, folder=self.folder, seed=self.seed)

    @functools.cached_property
    def training(self) -> RunDirectory | None:
        """The training that has ended."""
        return self._of_training[0]

    @property
    def not_shown(self) -> str:
        """What is wrong with a run of other settings that stands in the place of one of
        these; empty without one.
        """
        return self._of_search[1] or self._of_training[1]

    @functools.cached_property
    def counted(self) -> dict | None:
        """What `cost` counts of the network; None while its cell, or the size of its
        images, is not known.
        """
        if self.run is None:
            return None
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
        if self.row.search is None:
            return None, ""
        path = self.row.search_in(self.folder, self.seed)
        return _ended(search_settings(self.row, seed=self.seed), path)

    @functools.cached_property
    def _of_training(self) -> tuple[RunDirectory | None, str]:
        if self.run is None:
            return None, ""
        return _ended(self.run, self.row.training_in(self.folder, self.seed))


def _ended(run: Settings, path: pathlib.Path) -> tuple[RunDirectory | None, str]:
    """(the work directory of a run that has ended, None without one; what is wrong with
    a run of other settings there).
    """
    try:
        ended = is_finished(run, path)
    except UserError as error:
        return None, str(error)
    return (RunDirectory(path) if ended else None), ""


# A table is written after each of its rows, and counting takes a second.
@functools.lru_cache(maxsize=64)
def _counts(run: TrainSettings, sizes: tuple[tuple[str, int], ...]) -> dict:
    """What `cost` counts of a network. sizes: of the data."""
    options = dict.fromkeys(counting.OPTIONS) | dict(sizes)
    _, totals = counting.counts(run, options)
    return totals
