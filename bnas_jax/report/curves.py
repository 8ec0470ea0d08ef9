"""The charts of a run: losses, accuracies and alpha by epoch, and gradients."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from bnas_jax.report.charts import Line, chart

# The name of a part of the data in a record -> its name in a legend.
_PARTS = {"train": "training", "valid": "validation", "test": "test"}


def charts_of_metrics(records: Sequence[Mapping]) -> list[str]:
    """SVGs of the losses and the accuracies by epoch; [] without epochs.

    records: the lines of metrics.jsonl.
    """
    charts = []
    for measure, title in (("loss", "loss"), ("top1", "accuracy (top-1) in %")):
        lines = []
        for part, name in _PARTS.items():
            points = points_of(records, f"{part}_{measure}")
            # A loss that was never finite has no line.
            if any(value is not None for _, value in points):
                lines.append(Line(name, points))
        if lines:
            charts.append(chart(title, lines))
    return charts


def points_of(records: Iterable[Mapping], name: str) -> list[tuple[int, float | None]]:
    """Pairs (epoch, value) from the records that have an epoch and the value."""
    found = []
    for record in records:
        if name not in record or not isinstance(record.get("epoch"), int):
            continue
        value = record[name]
        # In the file, a number that is not finite is null or a text.
        number = value if isinstance(value, int | float) else None
        found.append((record["epoch"], number))
    return found


def chart_of_gradients(found: Mapping) -> str:
    """An SVG of the sum of |gradient| at each convolution, in forward order.

    found: the contents of gradients.json.
    """
    names = {"first": "before the first step", "last": f"at step {found.get('step')}"}
    lines = []
    for key, name in names.items():
        # A run that began with weights of another run has no "first".
        if found.get(key):
            points = list(enumerate(found[key], start=1))
            lines.append(Line(name, points))
    title = "sum of |gradient| of the loss"
    return chart(title, lines, x="convolution, from the first one", log=True)


def charts_of_alphas(
    history: Mapping[str, np.ndarray], layer_types: Sequence[str]
) -> list[str]:
    """SVGs of the softmax of alpha, averaged over edges, one for each kind of cell.

    There is a line for each layer type, from before the first epoch to after the last.
    A searcher that samples whole cells has no chart.

    history: see `history.read_history`.
    """
    charts = []
    for cell, title in (("normal", "normal cell"), ("reduce", "reduction cell")):
        alphas = history.get(cell)  # (epochs + 1, edges, types)
        if alphas is None or not _are_alphas(alphas, types=len(layer_types)):
            continue
        means = mean_weights(alphas)  # (epochs + 1, types)
        lines = []
        for number, name in enumerate(layer_types):
            points = list(enumerate(means[:, number]))
            lines.append(Line(name, points))
        heading = f"{title}: mean softmax of alpha"
        charts.append(chart(heading, lines, x="epochs that have ended"))
    return charts


def _are_alphas(history: np.ndarray, *, types: int) -> bool:
    """Whether a cell's history has alphas that can be drawn.

    history: (epochs + 1, edges, types). types: the number of layer types.
    """
    if history.ndim != 3 or history.shape[-1] != types:
        return False
    if not np.issubdtype(history.dtype, np.floating):
        return False
    if not np.isfinite(history).any():
        return False
    # A searcher that samples cells writes mixture weights of 0 and 1.
    last = history[-1]  # (edges, types)
    sampled = np.isin(last, (0, 1)).all() and last.any()
    return not sampled


def mean_weights(alphas: np.ndarray) -> np.ndarray:
    """The softmax of alpha over the types, averaged over the edges.

    alphas: (epochs + 1, edges, types). Returns (epochs + 1, types).
    """
    from scipy.special import softmax

    return softmax(alphas, axis=-1).mean(axis=1)
