"""Where a run that goes on stands: its epochs, its evaluation and its records."""

import math

from bnas_jax.core.errors import UserError
from bnas_jax.training.workdir import WorkDir


def check_epochs(num_epochs: int, step: int, steps_per_epoch: int) -> None:
    """Raises `UserError` for a run that is beyond the last of its epochs."""
    if step > num_epochs * steps_per_epoch:
        raise UserError(
            f"the run is at step {step} of {steps_per_epoch} an epoch, beyond the end "
            f"of config.num_epochs={num_epochs}; write at least "
            f"{-(-step // steps_per_epoch)}"
        )


def is_evaluated(state, step: int, steps_per_epoch: int) -> bool:
    """Whether the last epoch that has ended needs no evaluation any more.

    False for the state of an epoch's last step that has no accuracy of that epoch.
    """
    epoch = step // steps_per_epoch - 1  # the last one that has ended, -1 for none
    within_epoch = step % steps_per_epoch > 0
    if within_epoch or epoch < 0:
        return True
    top1 = float(state.top1[epoch])
    return not math.isnan(top1)


def say_what_is_lost(workdir: WorkDir, step: int, epochs: int) -> None:
    """Warns of what a run has lost: its checkpoints, or records of its epochs.

    step: from which the run goes on.
    epochs: the number of those that have ended, and been evaluated, by then.
    """
    # There are records, but the run begins anew.
    records = workdir.read_metrics()
    if step == 0 and records:
        workdir.say(
            f"warning: no checkpoint in {workdir.checkpoints}, though metrics.jsonl "
            f"has {len(records)} epochs; the run begins anew"
        )

    # The run goes on, but some of its epochs have no record.
    recorded = {record.get("epoch") for record in records}
    missing = set(range(epochs)) - recorded
    if missing:
        workdir.say(
            f"warning: metrics.jsonl lacks the records of {len(missing)} of the "
            f"{epochs} epochs so far; the run goes on without them"
        )
