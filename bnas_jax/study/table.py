"""Figures of a study: mean and deviation over seeds, and whether a difference means
anything.
"""

from collections.abc import Mapping, Sequence

import numpy as np


def figures(
    accuracies: Mapping[str, Mapping[int, float]], *, baseline: str | None = None
) -> dict:
    """{"rows": one for each name that has runs}, with a baseline that has runs also
    {"baseline": its name}.

    accuracies: of each row, seed -> top-1 in %. A row has name, top1 by seed, mean,
    deviation (of a sample, None for a single run), min, max. All but the baseline have
    the difference of the means and two probabilities of one at least as large if the
    rows did not differ: `p` by Student's paired t-test over the seeds that both have,
    `p_welch` by Welch's over all runs. None where the runs are too few, or do not vary.
    """
    # Rows without a finished run are left out.
    rows = [_row(name, values) for name, values in accuracies.items() if values]
    if baseline is None or not accuracies.get(baseline):
        return {"rows": rows}
    reference = accuracies[baseline]
    for row in rows:
        if row["name"] != baseline:
            row |= _comparison(accuracies[row["name"]], reference)
    return {"rows": rows, "baseline": baseline}


def mean_of(values: Sequence[float]) -> float | None:
    """The mean, None of none."""
    return float(np.mean(values)) if len(values) else None


def deviation_of(values: Sequence[float]) -> float | None:
    """The deviation of a sample, None of fewer than two."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _row(name: str, values: Mapping[int, float]) -> dict:
    """What a row says by itself. values: seed -> top-1 in %."""
    found = list(values.values())
    # As study.json has it, whose keys are texts.
    return {
        "name": name,
        "top1": {str(seed): value for seed, value in values.items()},
        "mean": mean_of(found),
        "deviation": deviation_of(found),
        "min": float(min(found)),
        "max": float(max(found)),
    }


def _comparison(values: Mapping[int, float], reference: Mapping[int, float]) -> dict:
    """difference, p and p_welch of a row beside the baseline, see `figures`."""
    ours, theirs = np.array(list(values.values())), np.array(list(reference.values()))
    both = sorted(set(values) & set(reference))
    pairs = np.array([(values[seed], reference[seed]) for seed in both]).reshape(-1, 2)
    return {
        "difference": float(ours.mean() - theirs.mean()),
        "p": _paired(pairs),
        "p_welch": _welch(ours, theirs),
    }


def _paired(pairs: np.ndarray) -> float | None:
    """Student's paired t-test. pairs: (seeds, 2)."""
    # Imported here, as loading it takes long.
    from scipy import stats

    if len(pairs) < 2 or np.ptp(pairs[:, 0] - pairs[:, 1]) == 0:
        return None
    return float(stats.ttest_rel(pairs[:, 0], pairs[:, 1]).pvalue)


def _welch(ours: np.ndarray, theirs: np.ndarray) -> float | None:
    """Welch's t-test of two samples whose deviations may differ."""
    from scipy import stats

    if min(len(ours), len(theirs)) < 2 or np.ptp([*ours, *theirs]) == 0:
        return None
    return float(stats.ttest_ind(ours, theirs, equal_var=False).pvalue)


def markdown(result: Mapping) -> str:
    """The table as Markdown, with the runs that failed below it. result: as study.json
    has it.
    """
    # Columns that only some studies have.
    compared = "baseline" in result
    head = ["", "runs", "top-1, %: mean", "deviation", "min to max"]
    if compared:
        head += [f"difference to {result['baseline']}, points", "p"]
    # Runs without a partner enter Welch's test alone.
    welch = compared and len({tuple(row["top1"]) for row in result["rows"]}) > 1
    if welch:
        head.append("p, Welch")
    shared = any("early_learnable_share" in row for row in result["rows"])
    if shared:
        head += [
            "layers with weights, first 40 % of epochs",
            "layers with weights in the cell",
        ]

    lines = [head, ["---"] * len(head)]
    for row in result["rows"]:
        line = [
            row["name"],
            str(len(row["top1"])),
            f"{row['mean']:.2f}",
            _number(row["deviation"], ".2f"),
            f"{row['min']:.2f} to {row['max']:.2f}",
        ]
        # Empty in the row of the baseline.
        if compared:
            line.append(_number(row.get("difference"), "+.2f"))
            line.append(_number(row.get("p"), ".2g"))
        if welch:
            line.append(_number(row.get("p_welch"), ".2g"))
        if shared:
            line.append(_number(row.get("early_learnable_share"), ".0%"))
            line.append(_number(row.get("learnable_share"), ".0%"))
        lines.append(line)

    rows = ["| " + " | ".join(line) + " |" for line in lines]
    table = "\n".join(rows)
    below = ""
    for name, message in result.get("failed", {}).items():
        below += f"\n\nFailed: {name}: {message}"
    for name, message in result.get("not_shown", {}).items():
        below += f"\n\nNot shown: {name}: {message}"
    title = result.get("title", "")
    return f"{title}\n\n{table}{below}\n"


def _number(value: float | None, form: str) -> str:
    """The number in a format of Python's, nothing where there is none."""
    if value is None:
        return ""
    return format(value, form)
