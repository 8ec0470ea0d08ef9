"""The columns of the paper's tables: each is a number of one training, measured by it or counted from its settings."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable

from bnas_jax import counting
from bnas_jax.core.genotype import Genotype, edges
from bnas_jax.settings import Settings, TrainSettings
from bnas_jax.study import Row
from bnas_jax.study.runs import (
    early_learnable_share,
    is_finished,
    search_settings,
    training_settings,
)
from bnas_jax.workdir import RunDirectory


@dataclasses.dataclass(frozen=True)
class Made:
    """What there is of a row with one seed, before, during and after its runs. folder: of all rows.

    Raises `UserError` where a run of other settings stands in the place of one of these.
    """

    row: Row
    folder: pathlib.Path
    seed: int

    @functools.cached_property
    def search(self) -> RunDirectory | None:
        """The search that has ended, of a row that has one."""
        if self.row.search is None:
            return None
        path = self.row.search_in(self.folder, self.seed)
        return _ended(search_settings(self.row, seed=self.seed), path)

    @functools.cached_property
    def run(self) -> TrainSettings | None:
        """The settings of the training, ended or to come; None while its cell is not found yet."""
        if self.row.search is not None and self.search is None:
            return None
        return training_settings(self.row, folder=self.folder, seed=self.seed)

    @functools.cached_property
    def training(self) -> RunDirectory | None:
        """The training that has ended."""
        if self.run is None:
            return None
        return _ended(self.run, self.row.training_in(self.folder, self.seed))

    @functools.cached_property
    def counted(self) -> dict | None:
        """What `cost` counts of the network; None while its cell, or the size of its images, is not known."""
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


# A table is written after each of its rows, and counting takes a second.
@functools.lru_cache(maxsize=64)
def _counts(run: TrainSettings, sizes: tuple[tuple[str, int], ...]) -> dict:
    """What `cost` counts of a network. sizes: of the data."""
    options = dict.fromkeys(counting.OPTIONS) | dict(sizes)
    _, totals = counting.counts(run, options)
    return totals


def _ended(run: Settings, path: pathlib.Path) -> RunDirectory | None:
    """The work directory of a run that has ended; None without one."""
    if not is_finished(run, path):
        return None
    return RunDirectory(path)


@dataclasses.dataclass(frozen=True)
class Column:
    """title: of the table's column, with the unit. of: the number, None where it is not known yet. form: of Python's format.
    measured: whether it takes a run."""

    title: str
    of: Callable[[Made], float | None]
    form: str = ".2f"
    measured: bool = True


def _of_summary(name: str) -> Callable[[Made], float | None]:
    """A number of the training's summary, measured on the test images after the last epoch."""

    def number(made: Made) -> float | None:
        if made.training is None:
            return None
        return (made.training.summary() or {}).get(name)

    return number


def train_top1(made: Made) -> float | None:
    """Accuracy on the training images, augmented, over the steps of the last epoch, in %."""
    if made.training is None:
        return None
    records = made.training.read_metrics()
    found = [record["train_top1"] for record in records if "train_top1" in record]
    return found[-1] if found else None


def _of_count(name: str, scale: float = 1.0) -> Callable[[Made], float | None]:
    """A number that `cost` counts."""

    def number(made: Made) -> float | None:
        counted = made.counted
        if counted is None or name not in counted:
            return None
        return counted[name] * scale

    return number


def separable_share(made: Made) -> float | None:
    """The share of separable convolutions among the eight edges of the normal cell, in %.

    Of that cell alone, with which DARTS has the 62.50 % of Table 11; of both cells it has 31.25 %.
    """
    genotype = None if made.run is None else getattr(made.run.network, "genotype", None)
    if not isinstance(genotype, Genotype):
        return None
    types = [edge.layer_type for edge in edges(genotype.normal)]
    separable = [name for name in types if name.startswith("sep_conv")]
    return 100 * len(separable) / len(types)


def early_learnable(made: Made) -> float | None:
    """The share of layers with weights in the genotypes of the search's first 40 % of epochs, in % (section 4.3)."""
    if made.search is None:
        return None
    share = early_learnable_share(made.search.path)
    return None if share is None else 100 * share


def _counted(title: str, name: str, *, scale: float = 1.0, form: str = ".2f") -> Column:
    return Column(title, _of_count(name, scale), form=form, measured=False)


COLUMNS = {
    "top1": Column("top-1, %", _of_summary("top1")),
    "top5": Column("top-5, %", _of_summary("top5")),
    "train_top1": Column("training top-1, %", train_top1),
    "flops": _counted("FLOPs, 1e8, counted", "flops", scale=1e-8, form=".3f"),
    "num_cells": _counted("cells", "num_cells", form=".0f"),
    "channels": _counted("channels", "channels", form=".0f"),
    "speedup": _counted("speed-up, counted", "speedup"),
    "memory_saving": _counted("memory saving, counted", "memory_saving"),
    "memory_saving_without_bn": _counted(
        "memory saving without batch norm, counted", "memory_saving_without_bn"
    ),
    "separable": Column("separable, normal cell, %", separable_share),
    "early_learnable": Column("learnable, first 40 % of epochs, %", early_learnable),
}
