"""`export`: writes the network of a work directory to one file."""

import contextlib
from typing import TYPE_CHECKING

from bnas_jax.cli.configs import Loaded, workdir_of
from bnas_jax.cli.flags import number, options, required
from bnas_jax.core.checks import choice, require

if TYPE_CHECKING:
    from bnas_jax.deploy.program import Target

# The formats of an exported file.
PACKED, PROGRAM = FORMATS = ("packed", "program")


def export(arguments: list[str], loaded: Loaded) -> dict:
    """Exports the network of a checkpoint, packed or as a program."""
    from bnas_jax.deploy.export import export

    names = ("workdir", "out", "step", "format", "platforms", "batch_size")
    values = options(arguments, "export", *names)
    workdir = required(values, "workdir", example="DIR, the directory that train wrote")
    out = required(values, "out", example="FILE")
    target = _target(values)
    with contextlib.closing(workdir_of(workdir, loaded)) as directory:
        return export(directory, out, step=values.step or "last", target=target)


def _target(values) -> "Target | None":
    """The platforms and the batch size of a program; None for a packed network."""
    from bnas_jax.deploy.program import PLATFORMS, Target

    form = values.format or PACKED
    choice("--format", form, choices=FORMATS)
    batch_size = number(values, "batch_size", kind=int, least=1)
    if form == PACKED:
        for name in ("platforms", "batch_size"):
            alone = values[name].value is None
            require(alone, f"--{name} belongs to a program; add --format=program")
        return None

    platforms = PLATFORMS
    if values.platforms is not None:
        platforms = tuple(values.platforms.split(","))
    for platform in platforms:
        choice("each of --platforms", platform, choices=PLATFORMS)
    return Target(platforms=platforms, batch_size=batch_size)
