"""`train`: trains a network."""

import contextlib

from bnas_jax import extensions
from bnas_jax.cli.configs import Loaded, configured, task_of, workdir_to_write
from bnas_jax.core import paths
from bnas_jax.core.errors import UserError
from bnas_jax.settings import TrainSettings


def train(arguments: list[str], loaded: Loaded) -> dict:
    """Trains a final network; writes checkpoints and metrics into a work directory."""
    run, values = configured(
        arguments, "train", workdir=None, change=False, init=None, init_step=None
    )
    run = task_of(
        run,
        kind=TrainSettings,
        command="train",
        example="configs/train.py:digits",
    )
    # These imports take seconds, so that the options are checked before them.
    from bnas_jax.training.fine_tune import Init
    from bnas_jax.training.train import train

    # Find the run whose weights the training begins with.
    if values.init_step and not values.init:
        raise UserError(
            "--init_step says which checkpoint of --init=DIR to take; write "
            "--init=DIR, too"
        )
    init = None
    if values.init:
        init = Init(workdir=values.init, which=values.init_step or "last")
        # That run may have been made with extensions, too.
        extensions.check(paths.local(init.workdir, "--init"), loaded)

    with contextlib.closing(workdir_to_write(values, loaded)) as workdir:
        return train(run, workdir, change=values.change, init=init)
