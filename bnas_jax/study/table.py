"""The statistics and the table of a study: mean, deviation and tests of differences."""

from collections.abc import Mapping, Sequence

import numpy as np

from bnas_jax.workdir.markdown import table_row

# The largest rounding error of an accuracy in %. One image of a million is as much.
ROUNDING = 1e-4
# The note on deviations under a table.
DEVIATION = "Deviations are those of a sample (n - 1) over the runs of a row."


def figures(
    accuracies: Mapping[str, Mapping[int, float]], *, baseline: str | None = None
) -> dict:
    """The statistics of each row, as in study.json.

    accuracies: row -> seed -> top-1 in %.
    baseline: the name of the row that the others are compared with.

    Returns {"rows": a list with a dict for each row that has runs}, and "baseline" if
    the baseline has runs. A row has name, top1 by seed, mean, deviation (of a sample;
    None for a single run), min and max.

    With a baseline, every other row also has the `difference` of the means, and two
    p-values: `p` of Student's paired t-test over the common seeds, and `p_welch` of
    Welch's t-test over all runs. A p-value is None if the runs are too few, or do not
    vary.
    """
    # Rows without a finished run are left out.
    rows = [_row(name, values) for name, values in accuracies.items() if values]
    if baseline is None or not accuracies.get(baseline):
        return {"rows": rows}

    # Compare each other row with the baseline.
    reference = accuracies[baseline]
    for row in rows:
        if row["name"] != baseline:
            row |= _comparison(accuracies[row["name"]], reference)
    return {"rows": rows, "baseline": baseline}


def mean_of(values: Sequence[float]) -> float | None:
    """The mean; None without values."""
    return float(np.mean(values)) if len(values) else None


def deviation_of(values: Sequence[float]) -> float | None:
    """The standard deviation of a sample (n - 1); None for fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def _row(name: str, values: Mapping[int, float]) -> dict:
    """The statistics of a row without the comparison. values: seed -> top-1 in %."""
    found = list(values.values())
    # The keys of JSON objects are texts.
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
    """{difference, p, p_welch} of a row and the baseline, see `figures`.

    values, reference: seed -> top-1 in %, of the row and of the baseline.
    """
    ours = np.array(list(values.values()))  # [seeds of the row]
    theirs = np.array(list(reference.values()))  # [seeds of the baseline]

    # Pairs of runs with the same seed.
    both = sorted(set(values) & set(reference))
    pairs = np.array([(values[seed], reference[seed]) for seed in both])
    pairs = pairs.reshape(-1, 2)  # [common seeds, 2], also without any
    return {
        "difference": float(ours.mean() - theirs.mean()),
        "p": _paired(pairs),
        "p_welch": _welch(ours, theirs),
    }


def _paired(pairs: np.ndarray) -> float | None:
    """The p-value of Student's paired t-test, or None. pairs: (seeds, 2)."""
    # Imported here because loading it takes long.
    from scipy import stats

    # The test is undefined unless the differences vary.
    if len(pairs) < 2 or not _vary(pairs[:, 0] - pairs[:, 1]):
        return None
    return float(stats.ttest_rel(pairs[:, 0], pairs[:, 1]).pvalue)


def _welch(ours: np.ndarray, theirs: np.ndarray) -> float | None:
    """The p-value of Welch's t-test, which allows unequal deviations, or None."""
    from scipy import stats

    # The test is undefined unless both have two runs, and one of them varies.
    if min(len(ours), len(theirs)) < 2 or not (_vary(ours) or _vary(theirs)):
        return None
    # From means and deviations: `ttest_ind` warns if one row does not vary.
    moments = []
    for row in (ours, theirs):
        moments += [np.mean(row), np.std(row, ddof=1), len(row)]
    return float(stats.ttest_ind_from_stats(*moments, equal_var=False).pvalue)


def _vary(percents: np.ndarray) -> bool:
    """Whether accuracies in %, or their differences, vary by more than rounding."""
    return bool(np.ptp(percents) > ROUNDING)


def markdown(result: Mapping) -> str:
    """The table as Markdown, followed by notes on its numbers and on missing runs.

    result: the contents of study.json.
    """
    rows = result["rows"]
    baseline = result.get("baseline")
    # Rows with different seeds need Welch's test, which also counts unpaired runs.
    seeds = {tuple(row["top1"]) for row in rows}
    welch = baseline is not None and len(seeds) > 1
    shared = any("early_learnable_share" in row for row in rows)

    # All studies have these columns; only some have the others.
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

    # In the row of the baseline, the columns of the comparison are empty.
    lines = [head, ["---"] * len(head)]
    for row in rows:
        line = _cells(row)
        if baseline is not None:
            line.append(number_text(row.get("difference"), "+.2f"))
            line.append(number_text(row.get("p"), ".2g"))
        if welch:
            line.append(number_text(row.get("p_welch"), ".2g"))
        if shared:
            line.append(number_text(row.get("early_learnable_share"), ".0%"))
            line.append(number_text(row.get("learnable_share"), ".0%"))
        lines.append(line)

    table = "\n".join(table_row(line) for line in lines)
    title = result.get("title", "")
    notes = _notes(baseline, welch=welch)
    return f"{title}\n\n{table}\n\n{notes}{_below(result)}\n"


def _cells(row: Mapping) -> list[str]:
    """The texts of a row in the columns that all studies have."""
    return [
        row["name"],
        runs_of(len(row["top1"]), row.get("seeds")),
        f"{row['mean']:.2f}",
        number_text(row["deviation"], ".2f"),
        f"{row['min']:.2f} to {row['max']:.2f}",
    ]


def runs_of(ended: int, planned: int | None) -> str:
    """The number of a row's runs as a text: "5", or "3 of 5" if some are missing."""
    if planned is None or ended in (0, planned):
        return str(ended)
    return f"{ended} of {planned}"


def _notes(baseline: str | None, *, welch: bool) -> str:
    """The notes on the numbers of the table. welch: whether it has Welch's test."""
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
    """The paragraphs on missing rows and runs, with the reasons."""
    text = ""
    if result.get("without_runs"):
        text += f"\n\nNo finished run: {', '.join(result['without_runs'])}."
    for name, message in result.get("failed", {}).items():
        text += f"\n\nFailed: {name}: {message}"
    for name, message in result.get("not_shown", {}).items():
        text += f"\n\nNot shown: {name}: {message}"
    return text


def number_text(value: float | None, form: str) -> str:
    """The number in a Python format such as ".2f"; "" for None."""
    if value is None:
        return ""
    return format(value, form)
