"""Making the runs of a table or figure, and writing it."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from bnas_jax.core.errors import UserError
from bnas_jax.report.sheet import style
from bnas_jax.reproduce.reproduction import Reproduction
from bnas_jax.reproduce.table import lines_of, markdown
from bnas_jax.study import Row
from bnas_jax.study.runs import make_folder, run_rows
from bnas_jax.workdir.files import whole, write_whole

# Of a file with a picture; the element `svg` alone is for pages.
_FILE_HEAD = '<?xml version="1.0" encoding="utf-8"?>\n'
# What each scale means, for a reader of the table.
SCALES = {
    "smoke": "Ours at the scale `smoke`: tiny networks, five epochs on 8x8 digits. It shows that all runs,"
    " and says nothing about the paper's numbers.",
    "paper": "Ours at the paper's scale. What the paper leaves open is our choice, named in configs/reproduce.py.",
}


def reproduce(
    wanted: Reproduction,
    folder: pathlib.Path,
    *,
    name: str,
    scale: str,
    only: Sequence[str] = (),
    count: bool = False,
) -> dict:
    """Makes the runs that are not finished; writes folder/NAME.json, NAME.md and the pictures, NAME_PICTURE.svg.

    folder: for all tables and figures of one scale, which share their runs: ROW/SEED/train and ROW/SEED/search. only: names of
    rows to run; () is all of them. count: runs nothing, and shows what is finished and what can be counted; so it is where all
    columns are counted. The table is written after each row.

    Returns {"title", "scale", "columns", "rows" (see `table.lines_of`), "failed", "out" (the files)}. Raises `UserError` for a
    name in `only` that no row has, for a folder that cannot be written, and where runs failed and none has ended.
    """
    rows = _chosen(wanted.rows, only)
    if count or not rows or not wanted.measures:
        make_folder(folder)
        failed: dict[str, str] = {}
    else:
        write = lambda failed: _write(_result(wanted, folder, scale, failed), folder, name=name)
        failed = run_rows(rows, folder, write=write)

    result = _result(wanted, folder, scale, failed)
    if _is_empty(result):
        run, message = next(iter(result["failed"].items()))
        raise UserError(f"none of the runs could be made; {run}: {message}")
    out = _write(result, folder, name=name) + _draw(wanted, folder, name=name)
    return result | {"out": out}


def _chosen(rows: Sequence[Row], only: Sequence[str]) -> list[Row]:
    """The rows of these names, or all; `UserError` for a name that no row has."""
    names = [row.name for row in rows]
    for name in only:
        if name not in names:
            raise UserError(f"no row {name!r}; write some of {', '.join(names)}")
    return [row for row in rows if not only or row.name in only]


def _result(
    wanted: Reproduction, folder: pathlib.Path, scale: str, failed: Mapping[str, str]
) -> dict[str, Any]:
    """The content of the table's files. failed: {ROW/SEED: message} of runs that were tried."""
    lines, foreign = lines_of(wanted, folder)
    return {
        "title": wanted.title,
        "scale": scale,
        "scale_means": SCALES[scale],
        "remark": wanted.remark,
        "columns": list(wanted.columns),
        "rows": lines,
        "failed": {**foreign, **failed},
    }


def _is_empty(result: Mapping) -> bool:
    """Whether runs failed and none has ended."""
    return bool(result["failed"]) and not any(line["runs"] for line in result["rows"])


def _write(result: Mapping, folder: pathlib.Path, *, name: str) -> list[str]:
    """Writes the table, unless it would be empty; returns its files."""
    if _is_empty(result):
        return []
    write_whole(folder / f"{name}.json", result)
    with whole(folder / f"{name}.md") as part:
        part.write_text(markdown(result))
    return [str(folder / f"{name}.json"), str(folder / f"{name}.md")]


def _draw(wanted: Reproduction, folder: pathlib.Path, *, name: str) -> list[str]:
    """Draws the pictures that can be drawn; returns their files."""
    files = []
    for picture, draw in wanted.pictures.items():
        with style():
            svg = draw(wanted, folder)
        if svg is None:
            continue
        path = folder / f"{name}_{picture}.svg"
        with whole(path) as part:
            part.write_text(_FILE_HEAD + svg, encoding="utf-8")
        files.append(str(path))
    return files
