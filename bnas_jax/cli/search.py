"""`search`: finds a cell."""

import contextlib
from typing import TYPE_CHECKING

from bnas_jax.cli import draw
from bnas_jax.cli.configs import Loaded, configured, task_of, workdir_to_write
from bnas_jax.settings import SearchSettings

if TYPE_CHECKING:
    from bnas_jax.training.workdir import WorkDir


def search(arguments: list[str], loaded: Loaded) -> dict:
    """Searches a cell into a work directory."""
    run, values = configured(arguments, "search", workdir=None, change=False)
    run = task_of(
        run,
        kind=SearchSettings,
        command="search",
        example="configs/search.py:digits",
    )
    # Imported now that the command is known to be right: this takes seconds.
    from bnas_jax.training.search import search

    with contextlib.closing(workdir_to_write(values, loaded)) as workdir:
        found = search(run, workdir, change=values.change)
        # The search has ended, so that its genotype.json is there.
        _leave_picture(workdir)
        return found


def _leave_picture(workdir: "WorkDir") -> None:
    """Draws cell.svg into the work directory.

    A search can do without the picture: an error in drawing is a line of its log.
    """
    from bnas_jax.runtime import hosts

    if not hosts.is_first():
        return
    try:
        draw.draw_found_cell(workdir.path, workdir / "cell.svg")
    # Of any class: a library for pictures is missing or broken, a font, the disk.
    except Exception as error:
        reason = " ".join(str(error).split())
        workdir.say(
            f"the cell is not drawn into cell.svg ({reason}); draw "
            f"--genotype={workdir.path} --out=FILE.svg does that"
        )
