"""`gradients`: how large the gradient is at each convolution of a training.

It is measured at the beginning of the training and at a checkpoint.
"""

from bnas_jax.cli.configs import Loaded, workdir_of
from bnas_jax.cli.flags import options, required


def gradients(arguments: list[str], loaded: Loaded) -> dict:
    """Writes gradients.json into the work directory; the page of `report` shows it."""
    from bnas_jax.training.gradients import write_gradients

    values = options(arguments, "gradients", "workdir", "step")
    given = required(values, "workdir", example="DIR, the directory that train wrote")
    workdir = workdir_of(given, loaded)
    return write_gradients(workdir, step=values.step or "last")
