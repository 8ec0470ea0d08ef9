"""The steps that one call of a compiled program makes, and what is due after them.

`crossed` says whether the loss is to be checked, `Saves` whether to save a checkpoint.
"""

import time

from bnas_jax.runtime import hosts
from bnas_jax.settings import Settings


def next_call(step: int, steps_per_epoch: int, steps_per_call: int) -> range:
    """The steps of the call that begins at `step`.

    Within an epoch, calls end at the multiples of `steps_per_call`, and the last one at
    the end of the epoch. So a resumed run makes the same calls as an uninterrupted one,
    and its results have the same bits.
    """
    # Positions within the epoch: where the call begins and ends.
    index = step % steps_per_epoch
    next_multiple = (index // steps_per_call + 1) * steps_per_call
    end = min(next_multiple, steps_per_epoch)
    return range(step, step - index + end)


def calls_of(
    step: int, last: int, steps_per_epoch: int, steps_per_call: int
) -> list[range]:
    """A call of each length, in steps, that the run still has to make.

    Each length is a program of its own to compile.

    step: the current step of the run.
    last: the last step of the run.
    """
    calls: dict[int, range] = {}  # {length: a call}
    # Two epochs have all lengths: the rest of the current one, and a whole one.
    end = min(last, step + 2 * steps_per_epoch)
    while step < end:
        steps = next_call(
            step, steps_per_epoch=steps_per_epoch, steps_per_call=steps_per_call
        )
        calls.setdefault(len(steps), steps)
        step = steps.stop
    return list(calls.values())


def crossed(steps: range, every: int) -> bool:
    """Whether a multiple of `every` lies in (start, stop]."""
    return steps.stop // every > steps.start // every


class Saves:
    """When a checkpoint is due within an epoch: by steps and by the clock."""

    def __init__(self, settings: Settings):
        self._steps = settings.checkpoint_every_steps
        self._seconds = None
        if settings.checkpoint_every_minutes is not None:
            self._seconds = 60 * settings.checkpoint_every_minutes
        self.done()

    def done(self) -> None:
        """Starts the clock again, after a save."""
        self._last = time.monotonic()

    def due(self, steps: range) -> bool:
        """Whether to save after these steps.

        The answer is the same on every process.
        """
        # By steps.
        if self._steps is not None and crossed(steps, self._steps):
            return True

        # By the clock.
        if self._seconds is None:
            return False
        due = time.monotonic() - self._last >= self._seconds
        if hosts.count() == 1:
            return due
        # The clocks of processes differ, so that the first process decides.
        # Broadcasting its answer costs time, and is done only every few steps.
        return crossed(steps, hosts.WAIT_EVERY) and hosts.first_says(due)
