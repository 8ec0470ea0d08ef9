"""Figures of a study: mean and deviation over seeds, and whether a difference means anything."""

from collections.abc import Mapping

import numpy as np

# Student's t-test of differences between runs of the same seed, and the test of two samples of unequal deviations.
PAIRED, WELCH = "paired t", "Welch"


def figures(accuracies: Mapping[str, Mapping[int, float]], *, baseline: str | None = None) -> dict:
    """{"rows": one for each name that has runs}, with a baseline that has runs also {"baseline": its name}.

    accuracies: of each row, seed -> top-1 in %. A row has name, top1 by seed, mean, deviation (of a sample, None for a single
    run), min, max. All but the baseline have the difference of the means and `p`, the probability of one at least as large if
    the rows did not differ: by Student's paired t-test where both have the same seeds, else by Welch's.
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


def _row(name: str, values: Mapping[int, float]) -> dict:
    """What a row says by itself. values: seed -> top-1 in %."""
    found = np.array(list(values.values()))
    # A single run has none.
    deviation = None
    if len(found) > 1:
        deviation = float(found.std(ddof=1))
    # As study.json has it, whose keys are texts.
    return {
        "name": name,
        "top1": {str(seed): value for seed, value in values.items()},
        "mean": float(found.mean()),
        "deviation": deviation,
        "min": float(found.min()),
        "max": float(found.max()),
    }


def _comparison(values: Mapping[int, float], reference: Mapping[int, float]) -> dict:
    """difference, p and the test's name; None for both where the values have no spread to compare the difference with."""
    # Imported here, as loading it takes long.
    from scipy import stats

    ours = list(values.values())
    theirs = list(reference.values())
    difference = float(np.mean(ours) - np.mean(theirs))
    unknown = {"difference": difference, "p": None, "test": None}
    if len(ours) < 2 or len(theirs) < 2:
        return unknown

    # With the same seeds, runs of the same seed are compared with each other.
    if set(values) == set(reference):
        seeds = sorted(values)
        ours = [values[seed] for seed in seeds]
        theirs = [reference[seed] for seed in seeds]
        if np.ptp(np.subtract(ours, theirs)) == 0:
            return unknown
        p = float(stats.ttest_rel(ours, theirs).pvalue)
        return {"difference": difference, "p": p, "test": PAIRED}

    # Else means of samples whose deviations may differ.
    if np.ptp([*ours, *theirs]) == 0:
        return unknown
    p = float(stats.ttest_ind(ours, theirs, equal_var=False).pvalue)
    return {"difference": difference, "p": p, "test": WELCH}


def markdown(result: Mapping) -> str:
    """The table as Markdown, with the runs that failed below it. result: as study.json has it."""
    # Columns that only some studies have.
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
        # Empty in the row of the baseline.
        if compared:
            line.append(_number(row.get("difference"), "+.2f"))
            line.append(_p(row))
        if shared:
            line.append(_number(row.get("early_learnable_share"), ".0%"))
        lines.append(line)

    rows = ["| " + " | ".join(line) + " |" for line in lines]
    table = "\n".join(rows)
    failed = ""
    for name, message in result.get("failed", {}).items():
        failed += f"\n\nFailed: {name}: {message}"
    title = result.get("title", "")
    return f"{title}\n\n{table}{failed}\n"


def _p(row: Mapping) -> str:
    """p and, where seeds were not paired, the test's name."""
    p = _number(row.get("p"), ".2g")
    if row.get("test") == WELCH:
        p += f" ({WELCH})"
    return p


def _number(value: float | None, form: str) -> str:
    """The number in a format of Python's, nothing where there is none."""
    if value is None:
        return ""
    return format(value, form)
