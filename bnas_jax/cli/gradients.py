"""`gradients`: measures the sum of |gradient| at each convolution of a network.

It is measured with the first weights of a training and with those of a checkpoint.
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
