"""The loop around a step: epochs, records, checkpoints, stops. What a run computes is not its business."""

import contextlib
import math
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

import jax

from bnas_jax.core.errors import UserError
from bnas_jax.runtime import devices, hosts
from bnas_jax.runtime.devices import Devices
from bnas_jax.runtime.stops import Interrupted, Stopped, Stops
from bnas_jax.settings import SearchSettings, Settings, from_config
from bnas_jax.training import changes, divergence
from bnas_jax.training.checkpoints import VARIABLES, Checkpoints
from bnas_jax.training.workdir import Log, WorkDir, environment

# A mean cross-entropy from which no training comes back: the right class has a probability of exp(-10000).
EXPLODED = 1e4


class Work(Protocol):
    """What a run computes, to the loop: `task.Task` is one."""

    @property
    def steps_per_epoch(self) -> int:
        """The number of steps."""

    def begin(self) -> Any:
        """The state to go on from."""

    def prepare(self, state, calls: list[range]) -> None:
        """Compiles what those calls and the evaluation need; the state stays as it is."""

    def advance(self, state, steps: range) -> Any:
        """The state after a call of steps of those numbers."""

    def finish_epoch(
        self, state, epoch: int, between_batches: Callable[[], None]
    ) -> tuple[Any, dict, float]:
        """(the state to go on with, the epoch's record, top-1 in %). between_batches: to call between two batches."""


def run(
    work: Work,
    settings: Settings,
    workdir: WorkDir,
    checkpoints: Checkpoints,
    *,
    where: Devices = devices.ONE,
) -> Any:
    """Advances the state that the work begins with to the end of the last epoch and returns it.

    At the end of each epoch, its record is logged and the state saved; a state that was saved before its evaluation was
    through begins with that. What `WorkDir.open` found changed holds from that step on, and is said with the learning rates.
    Raises `Stopped` after a signal, with the state saved, and `UserError`, without, when the loss is not finite.
    """
    with Stops() as stops, _finishing(checkpoints):
        try:
            state = stops.during(work.begin)
        except Interrupted as interrupted:
            raise Stopped(interrupted.number, max(checkpoints.steps(), default=0)) from None
        step = int(state.step)
        _check_epochs(settings.num_epochs, step, work.steps_per_epoch)
        evaluated = _is_evaluated(state, step, work.steps_per_epoch)
        with contextlib.closing(Log(workdir, step if evaluated else step - 1)) as log:
            loop = _Loop(state, settings, workdir, checkpoints, work, where, log, stops)
            loop.note_changes()
            if step < loop.last or not evaluated:
                loop.prepare()
            with loop.watchdog:
                if not evaluated:
                    loop.end_epoch()
                while loop.step < loop.last:
                    loop.call()
        return loop.state


class _Loop:
    """A run under way: its state, at `step`, and what surrounds it."""

    def __init__(
        self,
        state,
        settings: Settings,
        workdir,
        checkpoints,
        work: Work,
        where,
        log: Log,
        stops: Stops,
    ):
        self.state, self.settings, self.workdir, self.checkpoints = (
            state,
            settings,
            workdir,
            checkpoints,
        )
        self.work, self.where, self.log, self.stops = work, where, log, stops
        self.step = self.saved = int(state.step)  # saved: the step of the newest checkpoint
        self.last = settings.num_epochs * work.steps_per_epoch
        self.watchdog = hosts.Watchdog(settings.distributed.timeout_seconds)
        self.progress = _Progress(self.step, self.last)
        self.saves = _Saves(settings)
        self.started = time.monotonic()
        log.note(
            f"starts at step {self.step} of {self.last} on {environment()['device']}, {hosts.count()} processes"
        )
        log.note(f"code {hosts.code_version()}, jax {jax.__version__}")

    def note_changes(self) -> None:
        """Writes down which settings are others from here on, if any."""
        before = self.workdir.config()
        changed = self.workdir.note_changes(self.settings, self.step)
        if not changed:
            return
        rates = changes.rates(
            from_config(before), self.settings, self.step, self.work.steps_per_epoch
        )
        self.workdir.say(changes.describe(changed, rates))

    def prepare(self) -> None:
        """Compiles everything before the first step."""
        self.progress.say("compiling")
        try:
            self.stops.during(self._compile)
        except Interrupted as interrupted:
            raise self._stopped(interrupted.number) from None
        self.log.note(f"compiled in {time.monotonic() - self.started:.1f} s")
        self.started = time.monotonic()
        self.watchdog.beat(self.step)
        self.saves.done()

    def _compile(self) -> None:
        self.work.prepare(
            self.state,
            _calls(self.step, self.last, self.work.steps_per_epoch, self.settings.steps_per_call),
        )
        # What a save needs is compiled as it is called.
        self.where.saveable(self.state)
        self._check_whole()

    def call(self) -> None:
        """Makes one call's steps, and what is due after them."""
        steps = _next_call(self.step, self.work.steps_per_epoch, self.settings.steps_per_call)
        self.state = self.work.advance(self.state, steps)
        self.step = steps.stop
        self.progress.show(self.step)
        if hosts.count() > 1 and _crossed(steps, hosts.WAIT_EVERY):
            jax.block_until_ready(self.state.step)
            self.watchdog.beat(self.step)
        signal = self.stops.wanted()
        if self.step % self.work.steps_per_epoch == 0:
            self.end_epoch()
        elif signal or self.saves.due(steps):
            self._check_whole()
            self._save()
        elif _crossed(steps, self.settings.log_every_steps):
            self._check_finite()
        if signal and self.step < self.last:
            raise self._stopped(signal)

    def end_epoch(self) -> None:
        """Evaluates, writes the record and saves. A signal while it evaluates stops it, with the state saved as it is."""
        self._check_whole()
        epoch = self.step // self.work.steps_per_epoch - 1
        try:
            state, record, top1 = self.work.finish_epoch(self.state, epoch, self._between_batches)
        except Interrupted as interrupted:
            if self.saved < self.step:
                self._save()
            raise self._stopped(interrupted.number) from None
        self.state = self.where.settle(state)
        record["seconds"] = round(time.monotonic() - self.started, 3)
        self.started = time.monotonic()
        self.log.write(record)
        self.progress.say(_line(record))
        self.log.note(_line(record))
        self._save(top1)

    def _between_batches(self) -> None:
        self.watchdog.beat(self.step)
        self.stops.check()

    def _save(self, top1: float | None = None) -> None:
        self.checkpoints.save(self.step, self.state, top1)
        self.saved = self.step
        self.saves.done()

    def _check_finite(self) -> None:
        loss, examples = float(self.state.sums.loss), float(self.state.sums.examples)
        if not math.isfinite(loss):
            raise self._diverged(f"the loss became {loss}")
        if loss > EXPLODED * max(examples, 1):
            raise self._diverged(f"the mean loss of the epoch exploded to {loss / examples:.3g}")

    def _check_whole(self) -> None:
        """Before a checkpoint: the last step may have spoiled the weights without the loss showing it yet."""
        self._check_finite()
        if not devices.all_finite({name: getattr(self.state, name, None) for name in VARIABLES}):
            raise self._diverged("the weights are no longer finite")

    def _diverged(self, what: str) -> UserError:
        began = divergence.describe(self.state.guard, self.state.params)
        section = "weights" if isinstance(self.settings, SearchSettings) else "optimizer"
        # Weights whose gradient is not finite are no good, even where they are finite themselves.
        broken = divergence.first_step(self.state.guard)
        good = self.checkpoints.last_before(self.step if broken is None else broken)
        goes_on = "begins anew, as there is no good checkpoint"
        if good is not None:
            goes_on = (
                f"goes on from step {good}, the last good checkpoint in {self.workdir.checkpoints}"
            )
        return UserError(
            f"{what} by step {self.step}{began}; lower the learning rate or clip the gradient: the same command with --change"
            f" and a smaller --config.{section}.learning_rate or --config.{section}.clip_norm {goes_on}"
        )

    def _stopped(self, signal: int) -> Stopped:
        stopped = Stopped(signal, self.step)
        self.log.note(str(stopped))
        return stopped


def _check_epochs(num_epochs: int, step: int, steps_per_epoch: int) -> None:
    if step > num_epochs * steps_per_epoch:
        raise UserError(
            f"the run is at step {step} of {steps_per_epoch} an epoch, beyond the end of config.num_epochs={num_epochs};"
            f" write at least {-(-step // steps_per_epoch)}"
        )


def _is_evaluated(state, step: int, steps_per_epoch: int) -> bool:
    """Whether the evaluation of the last whole epoch is through, where the state stands at its end."""
    epoch = step // steps_per_epoch - 1
    return step % steps_per_epoch > 0 or epoch < 0 or not math.isnan(float(state.top1[epoch]))


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


def _calls(step: int, last: int, steps_per_epoch: int, steps_per_call: int) -> list[range]:
    """The first call of each number of steps that is still to come."""
    calls: dict[int, range] = {}
    end = min(
        last, step + 2 * steps_per_epoch
    )  # an epoch from its beginning to its end has all of them
    while step < end:
        steps = _next_call(step, steps_per_epoch, steps_per_call)
        calls.setdefault(len(steps), steps)
        step = steps.stop
    return list(calls.values())


def _crossed(steps: range, every: int) -> bool:
    """Whether a multiple of `every` lies in (start, stop]."""
    return steps.stop // every > steps.start // every


class _Saves:
    """When a checkpoint is due within an epoch: by steps and by the clock."""

    def __init__(self, settings: Settings):
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
        return (
            now
            if hosts.count() == 1
            else _crossed(steps, hosts.WAIT_EVERY) and hosts.first_says(now)
        )


def _line(record: dict) -> str:
    shown = (
        f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}"
        for k, v in record.items()
        if not isinstance(v, dict)
    )
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
