"""The charts of a run: losses and accuracies by epoch, and how alpha moved."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from bnas_jax.report.charts import Line, chart

# The parts of a data set, as records name them, and as a legend does.
_PARTS = {"train": "training", "valid": "validation", "test": "test"}


def charts_of_metrics(records: Sequence[Mapping]) -> list[str]:
    """SVGs of the losses and the accuracies in the records of metrics.jsonl that end an
    epoch; none where there are none.
    """
    charts = []
    for measure, title in (("loss", "loss"), ("top1", "accuracy (top-1) in %")):
        lines = []
        for part, name in _PARTS.items():
            points = points_of(records, f"{part}_{measure}")
            # Not of a loss that was never finite: it has no point.
            if any(value is not None for _, value in points):
                lines.append(Line(name, points))
        if lines:
            charts.append(chart(title, lines))
    return charts


def points_of(records: Iterable[Mapping], name: str) -> list[tuple[int, float | None]]:
    """(epoch, value) of the records that end an epoch and have the value."""
    found = []
    for record in records:
        if name not in record or not isinstance(record.get("epoch"), int):
            continue
        value = record[name]
        # What was not finite is None or a text.
        number = value if isinstance(value, int | float) else None
        found.append((record["epoch"], number))
    return found


def chart_of_gradients(found: Mapping) -> str:
    """An SVG of the sum of |gradient| at each convolution, in the order of the forward
    pass. found: as gradients.json.
    """
    lines = []
    for name, key in (
        ("before the first step", "first"),
        (f"at step {found.get('step')}", "last"),
    ):
        # A run that began with other weights than its own has no first ones.
        if found.get(key):
            lines.append(Line(name, list(enumerate(found[key], start=1))))
    title = "sum of |gradient| of the loss"
    return chart(title, lines, x="convolution, from the first one", log=True)


def charts_of_alphas(
    history: Mapping[str, np.ndarray], layer_types: Sequence[str]
) -> list[str]:
    """SVGs of the mean weight of each layer type, one for each cell that has a history.

    The softmax of alpha, averaged over the edges, before the first and after each
    epoch. history: see `history.read_history`. There is none of a searcher that samples
    whole cells.
    """
    found = []
    for cell in ("normal", "reduce"):
        alphas = history.get(cell)
        if alphas is None or alphas.ndim != 3 or alphas.shape[-1] != len(layer_types):
            continue
        # Not those of a searcher whose history holds the weights of sampled cells, 0
        # and 1.
        fits = np.issubdtype(alphas.dtype, np.floating) and np.isfinite(alphas).any()
        if not fits or (np.isin(alphas[-1], (0, 1)).all() and alphas[-1].any()):
            continue
        means = mean_weights(alphas)
        lines = []
        for number, name in enumerate(layer_types):
            lines.append(Line(name, list(enumerate(means[:, number]))))
        title = {"normal": "normal cell", "reduce": "reduction cell"}[cell]
        found.append(
            chart(f"{title}: mean softmax of alpha", lines, x="epochs that have ended")
        )
    return found


def mean_weights(alphas: np.ndarray) -> np.ndarray:
    """The softmax of alpha (epochs + 1, edges, types) over the types, averaged over the
    edges: (epochs + 1, types).
    """
    from scipy.special import softmax

    return softmax(alphas, axis=-1).mean(axis=1)
