"""`search`: searches a cell."""

import contextlib
from typing import TYPE_CHECKING

from bnas_jax.cli import draw
from bnas_jax.cli.configs import Loaded, configured, task_of, workdir_to_write
from bnas_jax.settings import SearchSettings

if TYPE_CHECKING:
    from bnas_jax.training.workdir import WorkDir


def search(arguments: list[str], loaded: Loaded) -> dict:
    """Searches a cell; writes its genotype and a picture into a work directory."""
    run, values = configured(arguments, "search", workdir=None, change=False)
    run = task_of(
        run,
        kind=SearchSettings,
        command="search",
        example="configs/search.py:digits",
    )
    # This import takes seconds, so that the options are checked before it.
    from bnas_jax.training.search import search

    with contextlib.closing(workdir_to_write(values, loaded)) as workdir:
        found = search(run, workdir, change=values.change)
        # A finished search has written its genotype.json.
        _leave_picture(workdir)
        return found


def _leave_picture(workdir: "WorkDir") -> None:
    """Draws cell.svg into the work directory.

    The search does not need the picture: an error in drawing becomes a line of the log.
    """
    from bnas_jax.runtime import hosts

    if not hosts.is_first():
        return
    try:
        draw.draw_found_cell(workdir.path, workdir / "cell.svg")
    # The cause may be a library, a font or the disk, so that any exception is possible.
    except Exception as error:
        reason = " ".join(str(error).split())
        workdir.say(
            f"the cell is not drawn into cell.svg ({reason}); draw "
            f"--genotype={workdir.path} --out=FILE.svg does that"
        )
