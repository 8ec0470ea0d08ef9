"""Checks of a run that is resumed: its epochs, its evaluation and its records."""

import math

from bnas_jax.core.errors import UserError
from bnas_jax.training.workdir import WorkDir


def check_epochs(num_epochs: int, step: int, steps_per_epoch: int) -> None:
    """Raises `UserError` for a run that is beyond its last epoch."""
    if step > num_epochs * steps_per_epoch:
        raise UserError(
            f"the run is at step {step} of {steps_per_epoch} an epoch, beyond the end "
            f"of config.num_epochs={num_epochs}; write at least "
            f"{-(-step // steps_per_epoch)}"
        )


def is_evaluated(state, step: int, steps_per_epoch: int) -> bool:
    """Whether the last finished epoch has been evaluated.

    False only for a state at the last step of an epoch without an accuracy for it.
    """
    epoch = step // steps_per_epoch - 1  # the last one that has ended, -1 for none
    within_epoch = step % steps_per_epoch > 0
    if within_epoch or epoch < 0:
        return True
    top1 = float(state.top1[epoch])
    return not math.isnan(top1)


def say_what_is_lost(workdir: WorkDir, step: int, epochs: int) -> None:
    """Warns if a run has lost its checkpoints, or records of its epochs.

    step: the step at which the run continues.
    epochs: the number of epochs that have ended and been evaluated before.
    """
    # There are records, but the run starts from scratch.
    records = workdir.read_metrics()
    if step == 0 and records:
        workdir.say(
            f"warning: no checkpoint in {workdir.checkpoints}, though metrics.jsonl "
            f"has {len(records)} epochs; the run starts again"
        )

    # The run continues, but some of its epochs have no record.
    recorded = {record.get("epoch") for record in records}
    missing = set(range(epochs)) - recorded
    if missing:
        workdir.say(
            f"warning: metrics.jsonl lacks the records of {len(missing)} of the "
            f"{epochs} epochs so far; the run continues without them"
        )
