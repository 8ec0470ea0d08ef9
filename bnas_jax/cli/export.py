"""`export`: writes the network of a work directory to one file."""

import contextlib

from bnas_jax.cli.configs import Loaded, workdir_of
from bnas_jax.cli.flags import options, required
from bnas_jax.core.checks import choice


def export(arguments: list[str], loaded: Loaded) -> dict:
    """Writes the network of a checkpoint, packed or as a program."""
    from bnas_jax.deploy.export import FORMATS, PACKED, export

    values = options(arguments, "export", "workdir", "out", "step", "format")
    workdir = required(values, "workdir", example="DIR, the directory that train wrote")
    out = required(values, "out", example="FILE")
    form = values.format or PACKED
    choice("--format", form, choices=FORMATS)
    with contextlib.closing(workdir_of(workdir, loaded)) as directory:
        return export(directory, out, step=values.step or "last", form=form)
