"""Figures of a study: mean and deviation over seeds, and tests of differences."""

from collections.abc import Mapping, Sequence

import numpy as np

from bnas_jax.workdir.markdown import table_row

# What rounding may do to an accuracy in %: less than an image of a million does.
ROUNDING = 1e-4
# What a deviation is, for a reader of a table.
DEVIATION = "Deviations are those of a sample (n - 1) over the runs of a row."


def figures(
    accuracies: Mapping[str, Mapping[int, float]], *, baseline: str | None = None
) -> dict:
    """The figures of each row, as study.json has them.

    accuracies: row -> seed -> top-1 in %.
    baseline: the name of the row that the others are compared with.

    Returns {"rows": a dict for each row that has runs}, and {"baseline": its name}
    where the baseline has runs. A row has name, top1 by seed, mean, deviation (of a
    sample, None for a single run), min and max.

    With a baseline, every other row also has the `difference` of the means, and the
    probability of one at least as large if the rows did not differ: `p` by Student's
    paired t-test over the seeds that both have, `p_welch` by Welch's over all runs. A
    probability is None where the runs are too few, or do not vary.
    """
    # Rows without a finished run are left out.
    rows = [_row(name, values) for name, values in accuracies.items() if values]
    if baseline is None or not accuracies.get(baseline):
        return {"rows": rows}

    # Each other row beside the baseline.
    reference = accuracies[baseline]
    for row in rows:
        if row["name"] != baseline:
            row |= _comparison(accuracies[row["name"]], reference)
    return {"rows": rows, "baseline": baseline}


def mean_of(values: Sequence[float]) -> float | None:
    """The mean; None of no values."""
    return float(np.mean(values)) if len(values) else None


def deviation_of(values: Sequence[float]) -> float | None:
    """The standard deviation of a sample; None of fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _row(name: str, values: Mapping[int, float]) -> dict:
    """The figures of a row by itself. values: seed -> top-1 in %."""
    found = list(values.values())
    # The keys of study.json are texts.
    by_seed = {str(seed): value for seed, value in values.items()}
    return {
        "name": name,
        "top1": by_seed,
        "mean": mean_of(found),
        "deviation": deviation_of(found),
        "min": float(min(found)),
        "max": float(max(found)),
    }


def _comparison(values: Mapping[int, float], reference: Mapping[int, float]) -> dict:
    """difference, p and p_welch of a row beside the baseline, see `figures`."""
    ours = np.array(list(values.values()))  # [seeds of the row]
    theirs = np.array(list(reference.values()))  # [seeds of the baseline]

    # Pairs of runs with the same seed.
    both = sorted(set(values) & set(reference))
    pairs = np.array([(values[seed], reference[seed]) for seed in both])
    pairs = pairs.reshape(-1, 2)  # [seeds of both, 2], also where there are none
    return {
        "difference": float(ours.mean() - theirs.mean()),
        "p": _paired(pairs),
        "p_welch": _welch(ours, theirs),
    }


def _paired(pairs: np.ndarray) -> float | None:
    """The probability by Student's paired t-test. pairs: (seeds, 2)."""
    # Imported here, as loading it takes long.
    from scipy import stats

    # Without a difference that varies, the test has no answer.
    if len(pairs) < 2 or not _vary(pairs[:, 0] - pairs[:, 1]):
        return None
    return float(stats.ttest_rel(pairs[:, 0], pairs[:, 1]).pvalue)


def _welch(ours: np.ndarray, theirs: np.ndarray) -> float | None:
    """The probability by Welch's t-test: the deviations of the samples may differ."""
    from scipy import stats

    # Each sample needs a deviation, and one of the two must vary.
    if min(len(ours), len(theirs)) < 2 or not (_vary(ours) or _vary(theirs)):
        return None
    # From means and deviations: given samples, SciPy warns where one is constant.
    moments = []
    for sample in (ours, theirs):
        moments += [np.mean(sample), np.std(sample, ddof=1), len(sample)]
    return float(stats.ttest_ind_from_stats(*moments, equal_var=False).pvalue)


def _vary(percents: np.ndarray) -> bool:
    """Whether accuracies, or their differences, vary by more than rounding does."""
    return bool(np.ptp(percents) > ROUNDING)


def markdown(result: Mapping) -> str:
    """The table as Markdown, and below it what its numbers are and what it lacks.

    result: as study.json has it.
    """
    rows = result["rows"]
    baseline = result.get("baseline")
    # A run without a partner of the same seed counts in Welch's test alone.
    seeds = {tuple(row["top1"]) for row in rows}
    welch = baseline is not None and len(seeds) > 1
    shared = any("early_learnable_share" in row for row in rows)

    # Every study has the first columns, and only some have the others.
    head = ["", "runs", "top-1, %: mean", "deviation", "min to max"]
    if baseline is not None:
        head += [f"difference to {baseline}, points", "p"]
    if welch:
        head.append("p, Welch")
    if shared:
        head += [
            "layers with weights, first 40 % of epochs",
            "layers with weights in the cell",
        ]

    # Cells of the comparison are empty in the row of the baseline.
    lines = [head, ["---"] * len(head)]
    for row in rows:
        line = _cells(row)
        if baseline is not None:
            line.append(_number(row.get("difference"), "+.2f"))
            line.append(_number(row.get("p"), ".2g"))
        if welch:
            line.append(_number(row.get("p_welch"), ".2g"))
        if shared:
            line.append(_number(row.get("early_learnable_share"), ".0%"))
            line.append(_number(row.get("learnable_share"), ".0%"))
        lines.append(line)

    table = "\n".join(table_row(line) for line in lines)
    title = result.get("title", "")
    notes = _notes(baseline, welch=welch)
    return f"{title}\n\n{table}\n\n{notes}{_below(result)}\n"


def _cells(row: Mapping) -> list[str]:
    """The cells of a row that every study has."""
    return [
        row["name"],
        runs_of(len(row["top1"]), row.get("seeds")),
        f"{row['mean']:.2f}",
        _number(row["deviation"], ".2f"),
        f"{row['min']:.2f} to {row['max']:.2f}",
    ]


def runs_of(ended: int, planned: int | None) -> str:
    """How many runs a row's numbers are of, such as 5, or 3 of 5 where some lack."""
    if planned is None or ended in (0, planned):
        return str(ended)
    return f"{ended} of {planned}"


def _notes(baseline: str | None, *, welch: bool) -> str:
    """What the numbers of the table are. welch: whether it has Welch's test."""
    notes = DEVIATION
    if baseline is not None:
        notes += (
            " Differences are of the means. p: Student's paired t-test over the seeds "
            f"that a row has in common with {baseline}"
        )
        if welch:
            notes += "; p, Welch: over all runs"
        notes += "; not corrected for the number of rows."
    return notes


def _below(result: Mapping) -> str:
    """The paragraphs on what the table lacks: rows and runs, and why."""
    text = ""
    if result.get("without_runs"):
        text += f"\n\nNo finished run: {', '.join(result['without_runs'])}."
    for name, message in result.get("failed", {}).items():
        text += f"\n\nFailed: {name}: {message}"
    for name, message in result.get("not_shown", {}).items():
        text += f"\n\nNot shown: {name}: {message}"
    return text


def _number(value: float | None, form: str) -> str:
    """The number in a format of Python's; an empty text for None."""
    if value is None:
        return ""
    return format(value, form)
