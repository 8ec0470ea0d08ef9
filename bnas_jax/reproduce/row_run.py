"""The search and the training of a row with one seed, as far as they exist."""

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
    """The search and the training of a row with one seed; they may not exist yet.

    folder: the folder that has the runs of all rows.
    """

    row: Row
    folder: pathlib.Path
    seed: int

    @functools.cached_property
    def search(self) -> RunDirectory | None:
        """The finished search; None before that, and for a row without a search."""
        return self._of_search[0]

    @functools.cached_property
    def run(self) -> TrainSettings | None:
        """The settings of the training, which may not exist yet.

        None until the search has finished, because they have its cell.
        """
        if self.row.search is not None and self.search is None:
            return None
        return training_settings(self.row, folder=self.folder, seed=self.seed)

    @functools.cached_property
    def training(self) -> RunDirectory | None:
        """The finished training; None before that."""
        return self._of_training[0]

    @property
    def not_shown(self) -> str:
        """The message about a directory that holds a run of other settings; else ""."""
        return self._of_search[1] or self._of_training[1]

    @functools.cached_property
    def counted(self) -> dict | None:
        """The totals of `cost` for the network.

        None while its cell, the image size or the number of classes is not known.
        """
        if self.run is None:
            return None
        # A finished training has recorded these sizes.
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
        """(the finished search or None, the message about another run or "")."""
        if self.row.search is None:
            return None, ""
        path = self.row.search_in(self.folder, self.seed)
        return _ended(search_settings(self.row, seed=self.seed), path)

    @functools.cached_property
    def _of_training(self) -> tuple[RunDirectory | None, str]:
        """(the finished training or None, the message about another run or "")."""
        if self.run is None:
            return None, ""
        return _ended(self.run, self.row.training_in(self.folder, self.seed))


def _ended(run: Settings, path: pathlib.Path) -> tuple[RunDirectory | None, str]:
    """(the finished run with these settings, "") or (None, message).

    The message says that the directory holds a run of other settings; it is "" if the
    run has just not finished.
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
    """The totals of `cost` for a network. sizes: pairs (name, size) of its images."""
    options = dict.fromkeys(counting.OPTIONS) | dict(sizes)
    _, totals = counting.counts(run, options)
    return totals
