"""The loop around a step: epochs, records, checkpoints, stops. What a run computes is not its business."""

import contextlib
import math
import sys
import time
from collections.abc import Callable
from typing import Any

from bnas_jax.core.errors import UserError
from bnas_jax.settings import RunSettings
from bnas_jax.training import devices
from bnas_jax.training.checkpoints import VARIABLES, Checkpoints
from bnas_jax.training.stops import Stopped, Stops
from bnas_jax.training.workdir import Log, WorkDir

Advance = Callable[[Any, int], Any]
# (state, epoch) -> (state to go on with, the epoch's record, top-1 in %)
FinishEpoch = Callable[[Any, int], tuple[Any, dict, float]]


def run(
    state,
    settings: RunSettings,
    workdir: WorkDir,
    checkpoints: Checkpoints,
    *,
    steps_per_epoch: int,
    advance: Advance,
    finish_epoch: FinishEpoch,
):
    """Advances `state` to the end of the last epoch and returns it.

    `advance(state, step)` makes one step. At the end of each epoch, `finish_epoch` evaluates; its record is logged and the
    state saved. Raises `Stopped` after a signal, with the state saved, and `UserError` when the loss is not finite, without.
    """
    last = settings.num_epochs * steps_per_epoch
    step = int(state.step)
    log = Log(workdir, step)
    with contextlib.closing(log), contextlib.closing(checkpoints), Stops() as stops:
        progress = _Progress(step, last)
        started = time.monotonic()
        while step < last:
            state = advance(state, step)
            step += 1
            progress.show(step)
            if step % steps_per_epoch == 0:
                _check_whole(state, step, workdir)
                state, record, top1 = finish_epoch(state, step // steps_per_epoch - 1)
                record["seconds"] = round(time.monotonic() - started, 3)
                started = time.monotonic()
                log.write(record)
                progress.say(_line(record))
                checkpoints.save(step, state, top1)
            elif _due(step, settings) or stops.signal:
                _check_whole(state, step, workdir)
                checkpoints.save(step, state)
            elif step % settings.log_every_steps == 0:
                _check_finite(state, step, workdir)
            if stops.signal and step < last:
                raise Stopped(stops.signal, step)
    return state


def _due(step: int, settings: RunSettings) -> bool:
    return settings.checkpoint_every_steps is not None and step % settings.checkpoint_every_steps == 0


def _check_finite(state, step: int, workdir: WorkDir) -> None:
    loss = float(state.sums.loss)
    if not math.isfinite(loss):
        raise _diverged(f"the loss became {loss}", step, workdir)


def _check_whole(state, step: int, workdir: WorkDir) -> None:
    """Before a checkpoint: the last step may have spoiled the weights without the loss showing it yet."""
    _check_finite(state, step, workdir)
    if not devices.all_finite({name: getattr(state, name, None) for name in VARIABLES}):
        raise _diverged("the weights are no longer finite", step, workdir)


def _diverged(what: str, step: int, workdir: WorkDir) -> UserError:
    return UserError(
        f"{what} by step {step}; lower the learning rate, or clip the gradient; "
        f"the last good checkpoint is kept in {workdir.checkpoints}"
    )


def _line(record: dict) -> str:
    shown = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in record.items() if not isinstance(v, dict))
    return "  ".join(shown)


class _Progress:
    """A bar on a terminal, plain lines elsewhere; both on stderr."""

    def __init__(self, step: int, last: int):
        from tqdm import tqdm

        self._bar = tqdm(total=last, initial=step, unit="step", disable=not sys.stderr.isatty(), file=sys.stderr)

    def show(self, step: int) -> None:
        self._bar.update(step - self._bar.n if not self._bar.disable else 0)

    def say(self, text: str) -> None:
        self._bar.write(text, file=sys.stderr)
