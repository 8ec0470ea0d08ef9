"""Figures of a study: mean and deviation over seeds, and whether a difference means anything."""

from collections.abc import Mapping

import numpy as np


def figures(accuracies: Mapping[str, Mapping[int, float]], *, baseline: str | None = None) -> dict:
    """{"rows": one for each name, {"baseline": its name}}.

    accuracies: of each row, seed -> top-1 in %. A row holds name, top1 by seed, mean, deviation (of a sample, None of one
    run), min, max; and where there is a baseline: difference of the means and `p`, the probability of one at least as large
    if rows did not differ: by Student's paired t-test over the seeds that both have, or by Welch's where they have others.
    """
    rows = [_row(name, values) for name, values in accuracies.items() if values]
    if baseline is None or not accuracies.get(baseline):
        return {"rows": rows}
    reference = accuracies[baseline]
    for row in rows:
        if row["name"] != baseline:
            row |= _comparison(accuracies[row["name"]], reference)
    return {"rows": rows, "baseline": baseline}


def _row(name: str, values: Mapping[int, float]) -> dict:
    found = np.array(list(values.values()))
    deviation = None
    if len(found) > 1:
        deviation = float(found.std(ddof=1))
    return {
        "name": name,
        "top1": {str(seed): value for seed, value in values.items()},
        "mean": float(found.mean()),
        "deviation": deviation,
        "min": float(found.min()),
        "max": float(found.max()),
    }


def _comparison(values: Mapping[int, float], reference: Mapping[int, float]) -> dict:
    """difference, p and the test's name."""
    from scipy import stats

    difference = float(np.mean(list(values.values())) - np.mean(list(reference.values())))
    paired = sorted(set(values) & set(reference))
    same_seeds = len(paired) == len(values) == len(reference)
    ours, theirs = list(values.values()), list(reference.values())
    if same_seeds:
        ours, theirs = [values[seed] for seed in paired], [reference[seed] for seed in paired]
    if (
        min(len(ours), len(theirs)) < 2
        or np.ptp(np.subtract(ours, theirs) if same_seeds else [*ours, *theirs]) == 0
    ):
        return {"difference": difference, "p": None, "test": None}
    if same_seeds:
        return {
            "difference": difference,
            "p": float(stats.ttest_rel(ours, theirs).pvalue),
            "test": "paired t",
        }
    return {
        "difference": difference,
        "p": float(stats.ttest_ind(ours, theirs, equal_var=False).pvalue),
        "test": "Welch t",
    }


def markdown(result: Mapping) -> str:
    """The table as Markdown."""
    compared = "baseline" in result
    head = ["", "runs", "top-1, %: mean", "deviation", "min to max"]
    if compared:
        head += [f"less {result['baseline']}", "p"]
    shared = any("early_learnable_share" in row for row in result["rows"])
    if shared:
        head.append("learnable, first 40 % of epochs")
    lines = [head, ["---"] * len(head)]
    for row in result["rows"]:
        line = [
            row["name"],
            str(len(row["top1"])),
            f"{row['mean']:.2f}",
            _number(row["deviation"], ".2f"),
            f"{row['min']:.2f} to {row['max']:.2f}",
        ]
        if compared:
            line += [_number(row.get("difference"), "+.2f"), _number(row.get("p"), ".2g")]
        if shared:
            line.append(_number(row.get("early_learnable_share"), ".0%"))
        lines.append(line)
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    failed = "".join(
        f"\n\nFailed: {name}: {message}" for name, message in result.get("failed", {}).items()
    )
    return f"{result.get('title', '')}\n\n{text}{failed}\n"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
