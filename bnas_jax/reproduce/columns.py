"""The columns of the paper's tables.

Each column is a number of one training: measured by it, or counted from its settings.
"""

import dataclasses
from collections.abc import Callable

from bnas_jax.core.genotype import Genotype, edges
from bnas_jax.reproduce.row_run import RowRun
from bnas_jax.study.results import early_learnable_share

# The layer types that are separable convolutions.
_SEPARABLE = ("sep_conv_3x3", "sep_conv_5x5", "sep_conv_7x7")


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table.

    title: the heading, with the unit.
    value: (run) -> the number of a row's run, or None if it is not known yet.
    form: the Python format of the number.
    measured: whether the number needs a finished run; otherwise it is counted.
    """

    title: str
    value: Callable[[RowRun], float | None]
    form: str = ".2f"
    measured: bool = True


def _of_summary(name: str) -> Callable[[RowRun], float | None]:
    """A function (run) -> an entry of the training's summary.json, or None."""

    def number(run: RowRun) -> float | None:
        if run.training is None:
            return None
        summary = run.training.summary() or {}
        return summary.get(name)

    return number


def train_top1(run: RowRun) -> float | None:
    """Accuracy on the augmented training images of the last epoch, in %."""
    if run.training is None:
        return None
    records = run.training.read_metrics()
    found = [record["train_top1"] for record in records if "train_top1" in record]
    return found[-1] if found else None


def _of_count(name: str, scale: float = 1.0) -> Callable[[RowRun], float | None]:
    """A function (run) -> scale * a number that `cost` counts, or None."""

    def number(run: RowRun) -> float | None:
        counted = run.counted
        if counted is None or name not in counted:
            return None
        return counted[name] * scale

    return number


def separable_share(run: RowRun) -> float | None:
    """The share of separable convolutions among the edges of the normal cell, in %.

    Only with the eight edges of that cell, DARTS has the 62.50 % that Table 11 prints;
    with both cells it has 31.25 %.
    """
    if run.run is None:
        return None
    genotype = getattr(run.run.network, "genotype", None)
    if not isinstance(genotype, Genotype):
        return None
    types = [edge.layer_type for edge in edges(genotype.normal)]
    separable = [name for name in types if name in _SEPARABLE]
    return 100 * len(separable) / len(types)


def early_learnable(run: RowRun) -> float | None:
    """The share of layers with weights in the first 40 % of a search's epochs, in %.

    See section 4.3.
    """
    if run.search is None:
        return None
    share = early_learnable_share(run.search.path)
    return None if share is None else 100 * share


def _counted(title: str, name: str, *, scale: float = 1.0, form: str = ".2f") -> Column:
    """A column with a number that `cost` counts."""
    return Column(title, _of_count(name, scale), form=form, measured=False)


# The name in configs/reproduce.py -> the column.
COLUMNS = {
    "top1": Column("top-1, %", _of_summary("top1")),
    "best_top1": Column(
        "top-1 of the best epoch, chosen on the test images, %",
        _of_summary("best_top1"),
    ),
    "top5": Column("top-5, %", _of_summary("top5")),
    "train_top1": Column("training top-1, %", train_top1),
    "flops": _counted("FLOPs, 1e8, counted", "flops", scale=1e-8, form=".4g"),
    "num_cells": _counted("cells", "num_cells", form=".0f"),
    "channels": _counted("channels", "channels", form=".0f"),
    "speedup": _counted("speed-up, counted", "speedup"),
    "memory_saving": _counted("memory saving, counted", "memory_saving"),
    "memory_saving_without_bn": _counted(
        "memory saving without batch norm, counted", "memory_saving_without_bn"
    ),
    "separable": Column("separable, normal cell, %", separable_share, measured=False),
    "early_learnable": Column("learnable, first 40 % of epochs, %", early_learnable),
}
