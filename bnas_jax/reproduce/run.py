"""Making the runs of a table or figure, and writing it."""

import pathlib
from collections.abc import Sequence
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
    "smoke": "Ours at the scale `smoke`: tiny networks, five epochs on 8x8 digits. It shows that all runs, and says nothing about"
    " the paper's numbers.",
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
    rows to run; () is all of them. count: runs nothing, the table has what is finished and what can be counted, as where all of
    its columns are counted. The table is written after each row. Returns {"title", "scale", "columns", "rows" (see `table.lines_of`), "failed", "out" (the files)}.
    Raises `UserError` for a name in `only` that no row has, a folder that cannot be written, and where no run of several could
    be made.
    """
    rows = _chosen(wanted.rows, only)
    write = lambda failed: _write(wanted, folder, name=name, scale=scale, failed=failed)
    failed: dict[str, str] = {}
    if count or not rows or not wanted.measures:
        make_folder(folder)
    else:
        failed = run_rows(rows, folder, write=write)
    result = write(failed)
    _refuse_nothing(result)
    result["out"] += _draw(wanted, folder, name=name)
    return result


def _chosen(rows: Sequence[Row], only: Sequence[str]) -> list[Row]:
    """The rows of these names, or all; `UserError` for a name that no row has."""
    names = [row.name for row in rows]
    for name in only:
        if name not in names:
            raise UserError(f"no row {name!r}; write some of {', '.join(names)}")
    return [row for row in rows if not only or row.name in only]


def _write(
    wanted: Reproduction, folder: pathlib.Path, *, name: str, scale: str, failed: dict[str, str]
) -> dict[str, Any]:
    """Writes the table of all runs that are finished."""
    lines, foreign = lines_of(wanted, folder)
    result: dict[str, Any] = {
        "title": wanted.title,
        "scale": scale,
        "scale_means": SCALES[scale],
        "remark": wanted.remark,
        "columns": list(wanted.columns),
        "rows": lines,
        "failed": foreign | failed,
    }
    out = [str(folder / f"{name}.json"), str(folder / f"{name}.md")]
    write_whole(folder / f"{name}.json", result)
    with whole(folder / f"{name}.md") as part:
        part.write_text(markdown(result))
    return result | {"out": out}


def _refuse_nothing(result: dict) -> None:
    """`UserError` where runs failed and none has ended, so that the table would be empty."""
    failed, ended = result["failed"], any(line["runs"] for line in result["rows"])
    if failed and not ended:
        name, message = next(iter(failed.items()))
        raise UserError(f"none of the runs could be made; {name}: {message}")


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
