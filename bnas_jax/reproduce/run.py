"""Runs what is missing of a table or figure of the paper, and writes the result."""

import pathlib
from collections.abc import Mapping, Sequence

from bnas_jax.core.errors import UserError
from bnas_jax.report.sheet import style
from bnas_jax.reproduce.reproduction import Reproduction
from bnas_jax.reproduce.table import lines_of, markdown
from bnas_jax.runtime import hosts
from bnas_jax.study.results import write_table
from bnas_jax.study.rows import check_configs, chosen_rows
from bnas_jax.study.runs import OpenWorkDir, make_folder, run_rows
from bnas_jax.training.workdir import WorkDir
from bnas_jax.workdir.files import whole

# The first line of an SVG file.
_FILE_HEAD = '<?xml version="1.0" encoding="utf-8"?>\n'


def reproduce(
    wanted: Reproduction,
    folder: pathlib.Path,
    *,
    name: str,
    scale: str,
    only: Sequence[str] = (),
    count: bool = False,
    settings: Sequence[str] = (),
    open_workdir: OpenWorkDir = WorkDir,
) -> dict:
    """Runs what is missing, and writes the table and its pictures.

    folder: the folder of all tables and figures of one scale, which share their runs,
        ROW/SEED/train and ROW/SEED/search. The table is NAME.json and NAME.md, updated
        after each row; pictures are NAME_PICTURE.svg.
    only: the names of the rows to run; () means all.
    count: whether to run nothing, and write only what is finished or can be counted. If
        all columns are counted, nothing is run in any case.
    settings: the changed settings, which the table names.
    open_workdir: see `run_study`.

    Returns {"title", "scale", "settings", "remark", "columns", "rows" (see
    `table.lines_of`), "failed", "out"}; for a figure without rows {"title", "failed",
    "out"}. "out" has the names of the files.

    Raises `UserError` for a name in `only` that no row has, for a folder that cannot be
    written, and if runs failed and none has finished.
    """
    # Some figures need no runs.
    if not wanted.rows:
        make_folder(folder)
        drawn, failed = _draw(wanted, folder, name=name)
        return {"title": wanted.title, "failed": failed, "out": drawn}

    about = {
        "title": wanted.title,
        "scale": scale,
        "settings": list(settings),
        "remark": wanted.remark,
        "columns": list(wanted.columns),
    }

    def write(failed: Mapping[str, str]) -> dict:
        result = {**about, "rows": lines_of(wanted, folder), "failed": dict(failed)}
        if not _is_empty(result):
            write_table(folder, name, result=result, text=markdown(result))
        return result

    # Run and draw, or only count.
    failed, drawn = {}, []
    rows = chosen_rows(wanted.rows, only)
    if count or not wanted.measures:
        for row in rows:
            check_configs(row)
        make_folder(folder)
    else:
        failed = run_rows(rows, folder, write=write, open_workdir=open_workdir)
        drawn, undrawn = _draw(wanted, folder, name=name)
        failed |= undrawn

    # The final table also names the pictures that could not be drawn.
    result = write(failed)
    _refuse_empty(result)
    tables = [str(folder / f"{name}.json"), str(folder / f"{name}.md")]
    return {**result, "out": [*tables, *drawn]}


def _is_empty(result: Mapping) -> bool:
    """Whether runs failed and none has finished."""
    ended = any(line["runs"] for line in result["rows"])
    return bool(result["failed"]) and not ended


def _refuse_empty(result: Mapping) -> None:
    """Raises `UserError` if runs failed and none has finished."""
    if _is_empty(result):
        name, message = next(iter(result["failed"].items()))
        raise UserError(f"none of the runs could be made; {name}: {message}")


def _draw(
    wanted: Reproduction, folder: pathlib.Path, *, name: str
) -> tuple[list[str], dict[str, str]]:
    """Draws the pictures; returns (the written files, {file: why it failed})."""
    files, failed = [], {}
    for picture, draw in wanted.pictures.items():
        path = folder / f"{name}_{picture}.svg"
        try:
            with style():
                svg = draw(wanted, folder)
        except UserError as error:
            failed[path.name] = str(error)
            continue
        # There is nothing to draw yet, or the first process writes the file.
        if svg is None or not hosts.is_first():
            continue
        with whole(path) as part:
            part.write_text(_FILE_HEAD + svg, encoding="utf-8")
        files.append(str(path))
    return files, failed
