"""The table with our numbers next to those of the paper."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from bnas_jax.reproduce.columns import COLUMNS
from bnas_jax.reproduce.reproduction import SCALES, Reproduction
from bnas_jax.reproduce.row_run import RowRun
from bnas_jax.study.table import (
    DEVIATION,
    deviation_of,
    mean_of,
    number_text,
    runs_of,
)
from bnas_jax.workdir.markdown import table_row


def lines_of(wanted: Reproduction, folder: pathlib.Path) -> list[dict]:
    """The lines of the table: for each row a dict with these keys.

    name: the name of the row.
    runs: the number of finished trainings. seeds: the number of planned trainings.
    ours: column -> mean over the finished runs, or over all if none has finished; None
        if nothing is known.
    deviation: column -> deviation of a sample; None for fewer than two runs, and for a
        counted number that is the same in all runs.
    paper: column -> the number that the paper prints.
    not_shown: seed -> the message about a directory that holds a run of other settings.
    """
    lines = []
    for row in wanted.rows:
        # The runs of all seeds, finished or not.
        runs = [RowRun(row, folder=folder, seed=seed) for seed in range(row.seeds)]
        ended = [run for run in runs if run.training is not None]
        not_shown = {str(run.seed): run.not_shown for run in runs if run.not_shown}
        line: dict[str, Any] = {
            "name": row.name,
            "runs": len(ended),
            "seeds": row.seeds,
            **_numbers(ended or runs, wanted.columns),
            "paper": dict(wanted.paper.get(row.name, {})),
            "not_shown": not_shown,
        }
        lines.append(line)
    return lines


def _numbers(runs: Sequence[RowRun], columns: Sequence[str]) -> dict[str, dict]:
    """{"ours", "deviation"} of a line: the means and deviations over runs."""
    ours: dict[str, float | None] = {}
    deviation: dict[str, float | None] = {}
    for name in columns:
        # The known numbers of all seeds.
        found = [COLUMNS[name].value(run) for run in runs]
        known = [number for number in found if number is not None]
        ours[name] = mean_of(known)
        # A counted number varies if each seed has searched its own cell.
        varies = COLUMNS[name].measured or len(set(known)) > 1
        deviation[name] = deviation_of(known) if varies else None
    return {"ours": ours, "deviation": deviation}


def markdown(result: Mapping) -> str:
    """The table as Markdown: for each column our number and the paper's.

    result: the result of `run.reproduce`.
    """
    # A column has numbers of the paper if the paper prints at least one.
    printed = {name for line in result["rows"] for name in line["paper"]}
    head = ["", "runs"]
    for name in result["columns"]:
        head.append(f"{COLUMNS[name].title}: ours")
        if name in printed:
            head.append("the paper's")

    # A line for each row.
    lines = [head, ["---"] * len(head)]
    for row in result["rows"]:
        cells = [row["name"], runs_of(row["runs"], row["seeds"])]
        for name in result["columns"]:
            cells.append(_ours(row, name))
            if name in printed:
                cells.append(_printed(row["paper"].get(name)))
        lines.append(cells)
    table = "\n".join(table_row(cells) for cells in lines)

    # Above the table are the remarks; below it the note on deviations, and the runs
    # that it does not have.
    parts = [result["title"], *_remarks(result), table]
    if "±" in table:
        parts.append(DEVIATION)
    for row in result["rows"]:
        for seed, why in row["not_shown"].items():
            parts.append(f"Not shown: {row['name']}/{seed}: {why}")
    for name, message in result["failed"].items():
        parts.append(f"Failed: {name}: {message}")
    return "\n\n".join(parts) + "\n"


def _remarks(result: Mapping) -> list[str]:
    """The paragraphs above the table."""
    remarks = [SCALES[result["scale"]]]
    if result["settings"]:
        listed = ", ".join(f"`{setting}`" for setting in result["settings"])
        remarks.append(
            f"Settings of the command line, for the rows that it ran: {listed}."
        )
    if result["remark"]:
        remarks.append(result["remark"])
    return remarks


def _ours(row: Mapping, name: str) -> str:
    """Our number, with its deviation if it has one."""
    text = number_text(row["ours"][name], COLUMNS[name].form)
    deviation = row["deviation"][name]
    if deviation is not None:
        text += f" ± {number_text(deviation, COLUMNS[name].form)}"
    return text


def _printed(number: float | None) -> str:
    """A number as the paper prints it: an integer, or with two decimals."""
    form = "d" if isinstance(number, int) else ".2f"
    return number_text(number, form)
