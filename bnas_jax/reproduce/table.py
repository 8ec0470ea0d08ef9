"""A table of the paper with our numbers beside the printed ones."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bnas_jax.core.errors import UserError
from bnas_jax.reproduce.columns import COLUMNS, Made
from bnas_jax.reproduce.reproduction import Reproduction


def lines_of(wanted: Reproduction, folder: pathlib.Path) -> tuple[list[dict], dict[str, str]]:
    """(a line for each row, {ROW/SEED: message} of runs that are not those of these settings).

    A line has name, runs (trainings that have ended), `ours` (column -> mean over seeds, None where nothing is known),
    `deviation` (column -> that of a sample, None of fewer than two) and `paper` (column -> what the paper prints).
    """
    lines, foreign = [], {}
    for row in wanted.rows:
        runs = []
        for seed in range(row.seeds):
            made = Made(row, folder=folder, seed=seed)
            # A run of other settings is named, and nothing of it is shown.
            try:
                runs.append((made, made.training is not None))
            except UserError as error:
                foreign[f"{row.name}/{seed}"] = str(error)
        line: dict[str, Any] = {"name": row.name, "runs": sum(ended for _, ended in runs)}
        line |= _numbers([made for made, _ in runs], wanted.columns)
        line["paper"] = dict(wanted.paper.get(row.name, {}))
        lines.append(line)
    return lines, foreign


def _numbers(runs: Sequence[Made], columns: Sequence[str]) -> dict[str, dict]:
    """Means and deviations of each column over runs."""
    ours: dict[str, float | None] = {}
    deviation: dict[str, float | None] = {}
    for name in columns:
        found = [COLUMNS[name].of(made) for made in runs]
        known = [number for number in found if number is not None]
        ours[name] = float(np.mean(known)) if known else None
        deviation[name] = float(np.std(known, ddof=1)) if len(known) > 1 else None
    return {"ours": ours, "deviation": deviation}


def markdown(result: Mapping) -> str:
    """The table as Markdown: for each column our number and the paper's. result: as `run.reproduce` gives it."""
    columns = result["columns"]
    printed = {name for line in result["rows"] for name in line["paper"]}
    head = ["", "runs"]
    for name in columns:
        head.append(f"{COLUMNS[name].title}: ours")
        if name in printed:
            head.append("the paper's")

    lines = [head, ["---"] * len(head)]
    for row in result["rows"]:
        cells = [row["name"], str(row["runs"])]
        for name in columns:
            cells.append(_ours(row, name))
            if name in printed:
                cells.append(_printed(row["paper"].get(name)))
        lines.append(cells)

    parts = [result["title"], result["scale_means"], result["remark"]]
    if result["rows"]:
        parts.append("\n".join("| " + " | ".join(cells) + " |" for cells in lines))
    for name, message in result["failed"].items():
        parts.append(f"Failed: {name}: {message}")
    return "\n\n".join(part for part in parts if part) + "\n"


def _ours(row: dict, name: str) -> str:
    """Our number, with its deviation where there are several seeds."""
    text = _text(row["ours"][name], COLUMNS[name].form)
    deviation = row["deviation"][name]
    # What is counted is the same for all seeds.
    if deviation:
        text += f" ± {_text(deviation, COLUMNS[name].form)}"
    return text


def _printed(number: float | None) -> str:
    """A number as the paper prints it: whole, or with two decimals."""
    return _text(number, "d" if isinstance(number, int) else ".2f")


def _text(number: float | None, form: str) -> str:
    """The number in a format of Python's, nothing where there is none."""
    return "" if number is None else format(number, form)
