"""`report`: writes one HTML page about a run."""

from collections.abc import Sequence

from bnas_jax import extensions
from bnas_jax.cli.flags import options, required
from bnas_jax.extensions import Extension
from bnas_jax.report.page import page, read_run
from bnas_jax.workdir import RunDirectory
from bnas_jax.workdir.files import file_to_write, whole


def report(arguments: list[str], loaded: Sequence[Extension]) -> dict:
    """Writes the page of a run, by default into its work directory."""
    values = options(arguments, "report", "workdir", "out")
    example = "DIR, the directory that search or train wrote"
    workdir = required(values, "workdir", example=example)
    directory = RunDirectory(workdir)
    out = values.out or str(directory / "report.html")

    # Read the run first: a directory without a run is the most important error.
    run = read_run(workdir)
    path = file_to_write(out, (".html", ".htm"))
    extensions.check(directory.path, tuple(loaded))
    text = page(run)
    with whole(path) as part:
        part.write_text(text, encoding="utf-8")
    return {"out": out}
