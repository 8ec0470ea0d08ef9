"""`report`: one HTML page about a run."""

from collections.abc import Sequence

from bnas_jax import extensions
from bnas_jax.cli.flags import options, required
from bnas_jax.core import paths
from bnas_jax.core.errors import UserError
from bnas_jax.extensions import Extension
from bnas_jax.report.page import page
from bnas_jax.workdir import RunDirectory
from bnas_jax.workdir.files import whole


def report(arguments: list[str], loaded: Sequence[Extension]) -> dict:
    """Writes the page of the run in a work directory, by default into that directory."""
    values = options(arguments, "report", "workdir", "out")
    workdir = required(values, "workdir", example="DIR, the directory that search or train wrote")
    directory = RunDirectory(workdir)
    out = values.out or str(directory / "report.html")
    path = paths.local(out, "--out")
    if path.is_dir():
        raise UserError(f"--out={out} is a folder; write the name of a file")
    # In a directory of no run the page says what is wrong.
    text = page(workdir)
    extensions.check(directory.path, tuple(loaded))
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {path.parent}; make it, or write another --out")
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")
    return {"out": out}
