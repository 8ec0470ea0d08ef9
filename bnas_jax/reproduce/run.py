"""Making the runs of a table or figure, and writing it."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from bnas_jax.core.errors import UserError
from bnas_jax.report.sheet import style
from bnas_jax.reproduce.reproduction import Reproduction
from bnas_jax.reproduce.table import lines_of, markdown
from bnas_jax.study.runs import check_configs, chosen_rows, make_folder, run_rows
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
    settings: Sequence[str] = (),
) -> dict:
    """Makes the runs that are not finished; writes folder/NAME.json, NAME.md and the pictures, NAME_PICTURE.svg.

    folder: for all tables and figures of one scale, which share their runs: ROW/SEED/train and ROW/SEED/search. only: names of
    rows to run; () is all of them. count: runs and draws nothing, the table has what is finished and what can be counted.
    Nothing is run, either, where all columns are counted. settings: what was changed in the rows, for the table to say. The
    table is written after each row.

    Returns {"title", "scale", "columns", "rows" (see `table.lines_of`), "failed", "out" (the files)}, of a figure without rows
    {"title", "out"}. Raises `UserError` for a name in `only` that no row has, for a folder that cannot be written, and where
    runs failed and none has ended.
    """
    if not wanted.rows:
        make_folder(folder)
        return {"title": wanted.title, "out": _draw(wanted, folder, name=name, failed={})}

    about = {
        "title": wanted.title,
        "scale": scale,
        "scale_means": SCALES[scale],
        "settings": list(settings),
        "remark": wanted.remark,
        "columns": list(wanted.columns),
    }

    def write(failed: Mapping[str, str]) -> dict:
        result = {**about, "rows": lines_of(wanted, folder), "failed": dict(failed)}
        if not _is_empty(result):
            write_whole(folder / f"{name}.json", result)
            with whole(folder / f"{name}.md") as part:
                part.write_text(markdown(result))
        return result

    failed: dict[str, str] = {}
    drawn: list[str] = []
    rows = chosen_rows(wanted.rows, only)
    if count or not wanted.measures:
        for row in rows:
            check_configs(row)
        make_folder(folder)
    else:
        failed = run_rows(rows, folder, write=write)
        drawn = _draw(wanted, folder, name=name, failed=failed)
    result = write(failed)
    _refuse_empty(result)
    return result | {"out": [str(folder / f"{name}.json"), str(folder / f"{name}.md"), *drawn]}


def _is_empty(result: Mapping) -> bool:
    """Whether runs failed and none has ended."""
    return bool(result["failed"]) and not any(line["runs"] for line in result["rows"])


def _refuse_empty(result: Mapping) -> None:
    """`UserError` where no run of several could be made."""
    if _is_empty(result):
        name, message = next(iter(result["failed"].items()))
        raise UserError(f"none of the runs could be made; {name}: {message}")


def _draw(
    wanted: Reproduction, folder: pathlib.Path, *, name: str, failed: dict[str, Any]
) -> list[str]:
    """Draws the pictures that can be drawn; returns their files, and adds to `failed` why one cannot."""
    files = []
    for picture, draw in wanted.pictures.items():
        try:
            with style():
                svg = draw(wanted, folder)
        except UserError as error:
            failed[f"{name}_{picture}.svg"] = str(error)
            continue
        if svg is None:
            continue
        path = folder / f"{name}_{picture}.svg"
        with whole(path) as part:
            part.write_text(_FILE_HEAD + svg, encoding="utf-8")
        files.append(str(path))
    return files
