"""`export`: packs the network of a work directory into one file."""

import contextlib

from bnas_jax.cli.configs import Loaded, workdir_of
from bnas_jax.cli.flags import options, required


def export(arguments: list[str], loaded: Loaded) -> dict:
    """Writes the network of a checkpoint with one bit for each binary weight."""
    from bnas_jax.deploy.export import export

    values = options(arguments, "export", "workdir", "out", "step")
    workdir = required(values, "workdir", example="DIR, the directory that train wrote")
    out = required(values, "out", example="FILE")
    with contextlib.closing(workdir_of(workdir, loaded)) as directory:
        return export(directory, out, step=values.step or "last")
