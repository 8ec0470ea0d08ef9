"""The training loop: epochs, records, checkpoints, and stops after a signal.

`run` is the whole loop, `_Loop` the state of a run in progress. The protocol `Work` is
the interface to what is computed (`task.Task`).
"""

import contextlib
import time
from collections.abc import Callable
from typing import Any, Protocol

import jax

from bnas_jax.core.errors import UserError
from bnas_jax.runtime import devices, hosts
from bnas_jax.runtime.devices import Devices
from bnas_jax.runtime.stops import Interrupted, Stopped, Stops
from bnas_jax.settings import Settings, from_config
from bnas_jax.training import changes, resume
from bnas_jax.training.calls import Saves, calls_of, crossed, next_call
from bnas_jax.training.checkpoints import Checkpoints
from bnas_jax.training.divergence_check import DivergenceCheck
from bnas_jax.training.log import Log
from bnas_jax.training.progress import ProgressBar, line_of
from bnas_jax.training.workdir import WorkDir, environment


class Work(Protocol):
    """The computations of a run, which the loop calls; see `task.Task`."""

    @property
    def steps_per_epoch(self) -> int:
        """The number of steps in an epoch."""

    def begin(self) -> Any:
        """The state of the newest checkpoint, or the first state of a new run."""

    def prepare(self, state, calls: list[range]) -> None:
        """Compiles the programs of the calls and of the evaluation.

        It does not change the state.

        calls: the numbers of the steps of each call.
        """

    def advance(self, state, steps: range) -> Any:
        """The state after the steps with these numbers, in a single call."""

    def finish_epoch(
        self, state, epoch: int, between_batches: Callable[[], None]
    ) -> tuple[Any, dict, float | None]:
        """(the state for the next epoch, the epoch's record, the accuracy).

        The accuracy is the top-1 in % of the state that is returned, or None.

        between_batches: to be called between two batches.
        """

    def conclude(self, state, between_batches: Callable[[], None]) -> None:
        """Computes the rest of the run's result, after the last epoch.

        between_batches: see `finish_epoch`.
        """


def run(
    work: Work,
    settings: Settings,
    workdir: WorkDir,
    checkpoints: Checkpoints,
    *,
    where: Devices = devices.ONE,
) -> Any:
    """Runs to the end of the last epoch, and returns the state there.

    It starts from the state of `Work.begin`. At the end of each epoch it evaluates,
    logs the record and saves the state. A state that was saved after an epoch's last
    step, but before the evaluation had finished, is evaluated first. Changed settings,
    found by `WorkDir.open`, are noted in the work directory, with the learning rates
    before and after the change.

    Raises `Stopped` after a signal, once the state is saved, and `UserError` if the
    loss or the weights are not finite; that state is not saved.
    """
    steps_per_epoch = work.steps_per_epoch
    with Stops() as stops, _finishing(checkpoints):
        # The first state, or the newest that was saved, and its step.
        state = _begin(work, checkpoints, stops)
        step = int(state.step)
        resume.check_epochs(
            settings.num_epochs, step=step, steps_per_epoch=steps_per_epoch
        )
        evaluated = resume.is_evaluated(
            state, step=step, steps_per_epoch=steps_per_epoch
        )

        # Later records are removed from the log. So is that of an epoch that is
        # evaluated again.
        logged = step
        if not evaluated:
            logged = step - 1
        resume.say_what_is_lost(workdir, step=step, epochs=logged // steps_per_epoch)

        # Compile, then run steps and evaluations until the last epoch has ended.
        with contextlib.closing(Log(workdir, logged)) as log:
            loop = _Loop(
                state=state,
                settings=settings,
                workdir=workdir,
                checkpoints=checkpoints,
                work=work,
                where=where,
                log=log,
                stops=stops,
            )
            loop.note_changes()
            if step < loop.last or not evaluated:
                loop.prepare()

            with loop.watchdog:
                if not evaluated:
                    loop.end_epoch()
                while loop.step < loop.last:
                    loop.call()
                loop.conclude()
        return loop.state


def _begin(work: Work, checkpoints: Checkpoints, stops: Stops) -> Any:
    """The result of `Work.begin`.

    Raises `Stopped` after a signal, because restoring may take minutes on a slow file
    system.
    """
    try:
        return stops.during(work.begin)
    except Interrupted as interrupted:
        saved = max(checkpoints.steps(), default=0)
        raise Stopped(interrupted.number, saved) from None


class _Loop:
    """A run in progress: its state, the number of its step, and the loop's objects."""

    def __init__(
        self,
        *,
        state,
        settings: Settings,
        workdir: WorkDir,
        checkpoints: Checkpoints,
        work: Work,
        where: Devices,
        log: Log,
        stops: Stops,
    ):
        self.state = where.settle(state)
        self.settings = settings
        self.workdir = workdir
        self.checkpoints = checkpoints
        self.work = work
        self.where = where
        self.log = log
        self.stops = stops

        # The steps of the state and of the newest checkpoint, and the last step of the
        # run.
        self.step = self.saved = int(state.step)
        self.last = settings.num_epochs * work.steps_per_epoch

        self.watchdog = hosts.Watchdog(settings.distributed.timeout_seconds)
        self.progress = ProgressBar(self.step, self.last)
        self.saves = Saves(settings)
        self.divergence = DivergenceCheck(settings, workdir, checkpoints)
        # The time at which the epoch began, or the compiling before it.
        self.started = time.monotonic()

        log.note(
            f"starts at step {self.step} of {self.last} on {environment()['device']}, "
            f"{hosts.count()} processes"
        )
        log.note(f"code {hosts.code_version()}, jax {jax.__version__}")

    def note_changes(self) -> None:
        """Writes changed settings into config.json and into the log."""
        # Read config.json before it is overwritten.
        before = self.workdir.config()
        changed = self.workdir.note_changes(self.settings, self.step)
        if not changed:
            return
        rates = None
        if self.step < self.last:
            rates = changes.rates(
                before=from_config(before),
                after=self.settings,
                step=self.step,
                steps_per_epoch=self.work.steps_per_epoch,
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

        # Start the clocks of the epoch, of the watchdog and of the saves, which exclude
        # compiling.
        self.started = time.monotonic()
        self.watchdog.beat(self.step)
        self.saves.done()

    def _compile(self) -> None:
        # The steps, in calls of each length, and the evaluation.
        calls = calls_of(
            self.step,
            last=self.last,
            steps_per_epoch=self.work.steps_per_epoch,
            steps_per_call=self.settings.steps_per_call,
        )
        self.work.prepare(self.state, calls)
        # Copying a state and checking it are small programs, which compile when they
        # are first called.
        self.where.saveable(self.state)
        self.divergence.check_whole(self.state)

    def call(self) -> None:
        """Runs the steps of one call, then whatever is due.

        That may be the end of the epoch, a save, or a check of the loss.
        """
        # The steps.
        steps = next_call(
            self.step,
            steps_per_epoch=self.work.steps_per_epoch,
            steps_per_call=self.settings.steps_per_call,
        )
        self.state = self.work.advance(self.state, steps)
        self.step = steps.stop
        self.progress.show(self.step)

        # Python runs ahead of the devices. Only waiting for a result shows whether the
        # other processes are alive.
        if hosts.count() > 1 and crossed(steps, hosts.WAIT_EVERY):
            jax.block_until_ready(self.state.step)
            self.watchdog.beat(self.step)

        # Every process asks once per call, so that all stop after the same step.
        signal = self.stops.wanted()

        # The end of an epoch includes a save, and a save includes a check.
        if self.step % self.work.steps_per_epoch == 0:
            self.end_epoch()
        elif signal or self.saves.due(steps):
            self.divergence.check_whole(self.state)
            self._save()
        elif crossed(steps, self.settings.log_every_steps):
            self.divergence.check_loss(self.state)

        # The state is saved by now. After the last step there is nothing to stop.
        if signal and self.step < self.last:
            raise self._stopped(signal)

    def end_epoch(self) -> None:
        """Evaluates, logs the record and saves.

        A signal ends the evaluation early; the state is then saved without an accuracy.
        """
        self.divergence.check_whole(self.state)

        # The evaluation.
        epoch = self.step // self.work.steps_per_epoch - 1  # from 0
        try:
            state, record, top1 = self.work.finish_epoch(
                self.state, epoch, between_batches=self._between_batches
            )
        except Interrupted as interrupted:
            # The state has no accuracy for this epoch, so that the next start evaluates
            # it first (`resume.is_evaluated`).
            if self.saved < self.step:
                self._save()
            raise self._stopped(interrupted.number) from None
        self.state = self.where.settle(state)

        # Start the clock of the next epoch.
        record["seconds"] = round(time.monotonic() - self.started, 3)
        self.started = time.monotonic()

        # The record is written before the save: after a crash between the two, the next
        # start removes it and rewrites it.
        self.log.write(record)
        self.progress.say(line_of(record))
        self.log.note(line_of(record))
        self._save(top1)

    def conclude(self) -> None:
        """Computes the rest of the result.

        It is not saved: after a signal, the next start computes it again.
        """
        try:
            self.work.conclude(self.state, between_batches=self._between_batches)
        except Interrupted as interrupted:
            raise self._stopped(interrupted.number) from None

    def _between_batches(self) -> None:
        # An evaluation may take longer than the watchdog waits.
        self.watchdog.beat(self.step)
        self.stops.check()

    def _save(self, top1: float | None = None) -> None:
        self.checkpoints.save(self.step, self.state, top1=top1)
        self.saved = self.step
        self.saves.done()

    def _stopped(self, signal: int) -> Stopped:
        """The exception that ends a run after a signal, once the state is on disk.

        Raises `UserError` if the state could not be saved.
        """
        self.checkpoints.finish()
        stopped = Stopped(signal, self.step)
        self.log.note(str(stopped))
        return stopped


@contextlib.contextmanager
def _finishing(checkpoints: Checkpoints):
    """Waits at the end for the current save, unless there was a second Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException:
        # An error of the last save must not hide the error that ended the run.
        with contextlib.suppress(UserError):
            checkpoints.close()
        raise
    checkpoints.close()
