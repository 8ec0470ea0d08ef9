"""The loop around a step: epochs, records, checkpoints, stops. What a run computes is not its business."""

import contextlib
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import jax

from bnas_jax.core.errors import UserError
from bnas_jax.settings import RunSettings
from bnas_jax.training import devices, guard, hosts
from bnas_jax.training.checkpoints import VARIABLES, Checkpoints
from bnas_jax.training.devices import Devices
from bnas_jax.training.stops import Stopped, Stops
from bnas_jax.training.workdir import Log, WorkDir, environment

# A mean cross-entropy from which no training comes back: the right class has a probability of exp(-10000).
EXPLODED = 1e4

# (state, numbers of the steps to make) -> state
Advance = Callable[[Any, range], Any]
# (state, epoch) -> (state to go on with, the epoch's record, top-1 in %)
FinishEpoch = Callable[[Any, int], tuple[Any, dict, float]]


def run(
    state,
    settings: RunSettings,
    workdir: WorkDir,
    checkpoints: Checkpoints,
    where: Devices = devices.ONE,
    *,
    steps_per_epoch: int,
    advance: Advance,
    finish_epoch: FinishEpoch,
):
    """Advances `state` to the end of the last epoch and returns it.

    `advance(state, steps)` makes one call's steps. At the end of each epoch, `finish_epoch` evaluates; its record is logged and
    the state saved. Raises `Stopped` after a signal, with the state saved, and `UserError`, without, when the loss
    is not finite.
    """
    last = settings.num_epochs * steps_per_epoch
    step = int(state.step)
    log = Log(workdir, step)
    watchdog = hosts.Watchdog(settings.distributed.timeout_seconds)
    with contextlib.closing(log), _finishing(checkpoints), Stops() as stops, watchdog:
        progress = _Progress(step, last)
        log.note(f"starts at step {step} of {last} on {environment()['device']}, {hosts.count()} processes")
        log.note(f"code {hosts.code_version()}, jax {jax.__version__}")
        started = time.monotonic()
        saves = _Saves(settings)
        while step < last:
            steps = _next_call(step, steps_per_epoch, settings.steps_per_call)
            state = advance(state, steps)
            step = steps.stop
            progress.show(step)
            if hosts.count() > 1 and _crossed(steps, hosts.WAIT_EVERY):
                jax.block_until_ready(state.step)
                watchdog.beat(step)
            signal = stops.wanted()
            if step % steps_per_epoch == 0:
                _check_whole(state, step, workdir)
                state, record, top1 = finish_epoch(state, step // steps_per_epoch - 1)
                state = where.settle(state)
                record["seconds"] = round(time.monotonic() - started, 3)
                started = time.monotonic()
                log.write(record)
                progress.say(_line(record))
                log.note(_line(record))
                checkpoints.save(step, state, top1)
                saves.done()
            elif signal or saves.due(steps):
                _check_whole(state, step, workdir)
                checkpoints.save(step, state)
                saves.done()
            elif _crossed(steps, settings.log_every_steps):
                _check_finite(state, step, workdir)
            if signal and step < last:
                stopped = Stopped(signal, step)
                log.note(str(stopped))
                raise stopped
    return state


@contextlib.contextmanager
def _finishing(checkpoints: Checkpoints):
    """Waits at the end for what is being saved, unless a second Ctrl-C asked not to."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException:
        with contextlib.suppress(UserError):  # the first error is the one to tell of
            checkpoints.close()
        raise
    checkpoints.close()


def _next_call(step: int, steps_per_epoch: int, steps_per_call: int) -> range:
    """The steps of one call. Calls begin at the same steps wherever a run was stopped, and none goes over an epoch's end."""
    index = step % steps_per_epoch
    end = min((index // steps_per_call + 1) * steps_per_call, steps_per_epoch)
    return range(step, step - index + end)


def _crossed(steps: range, every: int) -> bool:
    """Whether a multiple of `every` lies in (start, stop]."""
    return steps.stop // every > steps.start // every


class _Saves:
    """When a checkpoint is due within an epoch: by steps and by the clock."""

    def __init__(self, settings: RunSettings):
        self._steps, minutes = settings.checkpoint_every_steps, settings.checkpoint_every_minutes
        self._seconds = None if minutes is None else 60 * minutes
        self.done()

    def done(self) -> None:
        self._last = time.monotonic()

    def due(self, steps: range) -> bool:
        if self._steps is not None and _crossed(steps, self._steps):
            return True
        if self._seconds is None:
            return False
        now = time.monotonic() - self._last >= self._seconds
        # Clocks differ: the first process's counts, and asking for it is not free.
        return now if hosts.count() == 1 else _crossed(steps, hosts.WAIT_EVERY) and hosts.first_says(now)


def _check_finite(state, step: int, workdir: WorkDir) -> None:
    loss = float(state.sums.loss)
    if not math.isfinite(loss):
        raise _diverged(f"the loss became {loss}", state, step, workdir)
    if loss > EXPLODED * max(float(state.sums.examples), 1):
        raise _diverged(f"the mean loss of the epoch exploded to {loss / float(state.sums.examples):.3g}", state, step, workdir)


def _check_whole(state, step: int, workdir: WorkDir) -> None:
    """Before a checkpoint: the last step may have spoiled the weights without the loss showing it yet."""
    _check_finite(state, step, workdir)
    if not devices.all_finite({name: getattr(state, name, None) for name in VARIABLES}):
        raise _diverged("the weights are no longer finite", state, step, workdir)


def _diverged(what: str, state, step: int, workdir: WorkDir) -> UserError:
    began = guard.describe(state.guard, state.params)
    return UserError(
        f"{what} by step {step}{began}; lower the learning rate, or clip the gradient; "
        f"the last good checkpoint is kept in {workdir.checkpoints}"
    )


def _line(record: dict) -> str:
    shown = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in record.items() if not isinstance(v, dict))
    return "  ".join(shown)


class _Progress:
    """A bar on a terminal, plain lines elsewhere; both on stderr."""

    def __init__(self, step: int, last: int):
        from tqdm import tqdm

        hidden = not (hosts.is_first() and sys.stderr.isatty())
        self._bar = tqdm(total=last, initial=step, unit="step", disable=hidden, file=sys.stderr)

    def show(self, step: int) -> None:
        self._bar.update(step - self._bar.n if not self._bar.disable else 0)

    def say(self, text: str) -> None:
        if hosts.is_first():
            self._bar.write(text, file=sys.stderr)
