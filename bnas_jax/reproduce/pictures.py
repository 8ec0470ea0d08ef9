"""Draws the figures of the paper.

Each function takes a reproduction and its folder, and returns an SVG, or None if there
is nothing to draw yet. Curves and gradients are those of seed 0.
"""

import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from bnas_jax.core import genotypes
from bnas_jax.report import cells as cells_lib
from bnas_jax.report import resnet_block
from bnas_jax.report import template as template_lib
from bnas_jax.report.charts import Line, Points, chart, scatter
from bnas_jax.report.curves import points_of
from bnas_jax.reproduce import quantization
from bnas_jax.reproduce.reproduction import Reproduction
from bnas_jax.reproduce.row_run import RowRun
from bnas_jax.reproduce.table import lines_of
from bnas_jax.study import Row
from bnas_jax.training.gradients import write_gradients
from bnas_jax.training.workdir import WorkDir
from bnas_jax.workdir import RunDirectory


def accuracy_over_flops(wanted: Reproduction, folder: pathlib.Path) -> str | None:
    """Figure 1: top-1 over FLOPs, with filled points for ours and rings for the paper.

    The table of `wanted` must have the columns `flops` and `top1`.
    """
    # Both points of a row have the same style; only ours has a name in the legend.
    groups = []
    for number, line in enumerate(lines_of(wanted, folder)):
        for numbers, hollow in ((line["ours"], False), (line["paper"], True)):
            flops, top1 = numbers.get("flops"), numbers.get("top1")
            if flops is None or top1 is None:
                continue
            name = "" if hollow else line["name"]
            points = [(flops, top1)]
            groups.append(Points(name, points, style=number, hollow=hollow))

    # None of our points is known yet.
    if all(group.hollow for group in groups):
        return None
    title = "accuracy over FLOPs; rings: the paper's"
    return scatter(title, groups, x="FLOPs, 1e8", y="top-1, %", log=True)


def test_curves(wanted: Reproduction, folder: pathlib.Path) -> str | None:
    """Figures 2, 4 and 9b: test accuracy by epoch, with a line for each training."""
    return _curves(wanted, folder, part="test")


def train_curves(wanted: Reproduction, folder: pathlib.Path) -> str | None:
    """Figures 4 and 9a: training accuracy by epoch, with a line for each training."""
    return _curves(wanted, folder, part="train")


def _curves(wanted: Reproduction, folder: pathlib.Path, *, part: str) -> str | None:
    """Accuracy by epoch. part: `train` or `test`."""
    lines = []
    for row, training in _trainings(wanted, folder):
        points = points_of(training.read_metrics(), f"{part}_top1")
        if points:
            lines.append(Line(row.name, points))
    if not lines:
        return None
    return chart(f"{part} accuracy (top-1) in %, seed 0", lines)


def gradients(wanted: Reproduction, folder: pathlib.Path) -> str | None:
    """Figures 4 and 10: the sum of |gradient| at each convolution after training.

    There is a line for each training. If its gradients.json is missing or of another
    step, this measures and writes it. A convolution whose gradient is zero is a cross
    at the lower edge.
    """
    lines = []
    for row, training in _trainings(wanted, folder):
        # The file may have been written during the training.
        found = training.gradients()
        summary = training.summary() or {}
        if found is None or found.get("step") != summary.get("steps"):
            found = write_gradients(WorkDir(training.path))
        # The first convolution has the number 1.
        points = list(enumerate(found["last"], start=1))
        lines.append(Line(row.name, points))
    if not lines:
        return None
    title = "sum of |gradient| after training, seed 0"
    return chart(title, lines, x="convolution, from the first one", log=True)


def _trainings(
    wanted: Reproduction, folder: pathlib.Path
) -> Iterator[tuple[Row, RunDirectory]]:
    """(row, its training with seed 0) for the rows whose training has finished."""
    for row in wanted.rows:
        training = RowRun(row, folder=folder, seed=0).training
        if training is not None:
            yield row, training


def quantization_errors(wanted: Reproduction, folder: pathlib.Path) -> str:
    """Figure 3: float and binary outputs of random convolutions.

    The colour says which is closer to the float output: the binary output, or the
    output 0 of Zeroise.
    """
    del wanted, folder
    windows = quantization.random_windows()
    nearer = windows.zeroise_is_nearer  # (windows,)
    points = np.stack([windows.floats, windows.binary], axis=1)  # (windows, 2)
    share = 100 * nearer.mean()

    # As in the paper, one window is labelled with both outputs.
    chosen = quantization.example(windows)
    label = f"{windows.floats[chosen]:.2f} and {windows.binary[chosen]:.1f}"
    example = [points[chosen].tolist()]
    groups = [
        Points("binary is nearer", points=points[~nearer].tolist()),
        Points(f"Zeroise is nearer, {share:.0f} %", points=points[nearer].tolist()),
        Points("as in Figure 3", points=example, labels=[label]),
    ]
    title = "random 3x3 convolutions, 16 channels"
    return scatter(title, groups, x="float output", y="binary output (Eq. 1)")


def cell_template(wanted: Reproduction, folder: pathlib.Path) -> str:
    """Figure 5: how cells follow each other."""
    del wanted, folder
    return template_lib.template().svg()


def resnet_blocks(wanted: Reproduction, folder: pathlib.Path) -> str:
    """Figure 6a: the blocks of ResNet18 with XNOR-Net's binarization."""
    del wanted, folder
    return resnet_block.resnet_blocks().svg()


def named_cells(
    wanted: Reproduction,
    folder: pathlib.Path,
    *,
    names: Sequence[str],
    skip: Sequence[bool],
) -> str | None:
    """Figures 6b, 7, 8 and 11: genotypes side by side.

    names: names of published genotypes, or of rows with a search; their genotype is
        that of the finished search with seed 0.
    skip: for each name, whether its network has inter-cell skips.

    Returns None if one of the searches has not finished.
    """
    searched = {row.name: row for row in wanted.rows if row.search is not None}
    named = []
    for name in names:
        given = name
        # `genotypes.load` takes a name or the directory of a search.
        if name in searched:
            found = RowRun(searched[name], folder=folder, seed=0).search
            if found is None:
                return None
            given = str(found.path)
        named.append((name, genotypes.load(given)))
    return cells_lib.genotypes(named, skip=skip).svg()
