"""The loop around the steps of a run: epochs, records, checkpoints, stops.

`run` is the whole of it, `_Loop` the state of a run that is under way. What a step
computes is the task's part, behind the protocol `Work`.
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
    """What the loop drives: a run's computations, such as those of `task.Task`."""

    @property
    def steps_per_epoch(self) -> int:
        """The number of steps in an epoch."""

    def begin(self) -> Any:
        """The state to go on from: the newest checkpoint's, or the first one."""

    def prepare(self, state, calls: list[range]) -> None:
        """Compiles the programs of those calls and of the evaluation.

        The state stays as it is.
        """

    def advance(self, state, steps: range) -> Any:
        """The state after the steps of those numbers, which one call makes."""

    def finish_epoch(
        self, state, epoch: int, between_batches: Callable[[], None]
    ) -> tuple[Any, dict, float | None]:
        """(the state to go on with, the epoch's record, its accuracy).

        The accuracy is top-1 in % of the state that is returned, or None.

        between_batches: to call between two batches.
        """

    def conclude(self, state, between_batches: Callable[[], None]) -> None:
        """Computes what else the run's result needs, after the last epoch.

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
    """Advances a run to the end of its last epoch and returns its state there.

    It begins with the state that `Work.begin` gives. At the end of each epoch the
    record is logged and the state saved. A state that was saved after an epoch's last
    step, but before the evaluation was finished, is evaluated first. Settings that
    `WorkDir.open` found changed are noted in the work directory, with the learning
    rates before and after the change.

    Raises `Stopped` after a signal, with the state saved; and `UserError` when the loss
    or the weights are not finite, with the state not saved.
    """
    steps_per_epoch = work.steps_per_epoch
    with Stops() as stops, _finishing(checkpoints):
        # The first state, or the newest that was saved, and where the run stands.
        state = _begin(work, checkpoints, stops)
        step = int(state.step)
        resume.check_epochs(
            settings.num_epochs, step=step, steps_per_epoch=steps_per_epoch
        )
        evaluated = resume.is_evaluated(
            state, step=step, steps_per_epoch=steps_per_epoch
        )

        # The log is cut behind the last record that is final: an epoch that is
        # evaluated anew gets another record.
        logged = step
        if not evaluated:
            logged = step - 1
        resume.say_what_is_lost(workdir, step=step, epochs=logged // steps_per_epoch)

        # Compile, then steps and evaluations until the last epoch has ended.
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
    """The state that a run begins with, as `Work.begin` gives it.

    Restoring takes minutes where files are slow. A signal ends it: `Stopped`.
    """
    try:
        return stops.during(work.begin)
    except Interrupted as interrupted:
        saved = max(checkpoints.steps(), default=0)
        raise Stopped(interrupted.number, saved) from None


class _Loop:
    """A run under way: its state, at `step`, and what the loop needs around it."""

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
        self.state = state
        self.settings = settings
        self.workdir = workdir
        self.checkpoints = checkpoints
        self.work = work
        self.where = where
        self.log = log
        self.stops = stops

        # Numbers of steps: that of the state, that of the newest checkpoint, and the
        # last one of the run.
        self.step = self.saved = int(state.step)
        self.last = settings.num_epochs * work.steps_per_epoch

        self.watchdog = hosts.Watchdog(settings.distributed.timeout_seconds)
        self.progress = ProgressBar(self.step, self.last)
        self.saves = Saves(settings)
        self.divergence = DivergenceCheck(settings, workdir, checkpoints)
        # When the epoch, or compiling before it, began.
        self.started = time.monotonic()

        log.note(
            f"starts at step {self.step} of {self.last} on {environment()['device']}, "
            f"{hosts.count()} processes"
        )
        log.note(f"code {hosts.code_version()}, jax {jax.__version__}")

    def note_changes(self) -> None:
        """Notes settings that differ from here on, in config.json and in the log."""
        # config.json is read before it is overwritten.
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

        # The clocks of the epoch, of the watchdog and of the saves begin here:
        # compiling is in none of them.
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
        # Copying a state for a save and checking it are small programs, too. They
        # compile when they are first called.
        self.where.saveable(self.state)
        self.divergence.check_whole(self.state)

    def call(self) -> None:
        """Runs the steps of one call, and what is due after them.

        That is the end of an epoch, a save, or a check of the loss.
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

        # Python runs ahead of the devices. Only a wait for a result shows whether the
        # other processes are alive.
        if hosts.count() > 1 and crossed(steps, hosts.WAIT_EVERY):
            jax.block_until_ready(self.state.step)
            self.watchdog.beat(self.step)

        # Every process asks once a call, or they would not agree on the step to stop
        # after.
        signal = self.stops.wanted()

        # What is due. The end of an epoch includes a save, and a save includes a check.
        if self.step % self.work.steps_per_epoch == 0:
            self.end_epoch()
        elif signal or self.saves.due(steps):
            self.divergence.check_whole(self.state)
            self._save()
        elif crossed(steps, self.settings.log_every_steps):
            self.divergence.check_loss(self.state)

        # By now the state is saved. After the last step there is nothing to stop.
        if signal and self.step < self.last:
            raise self._stopped(signal)

    def end_epoch(self) -> None:
        """Evaluates, logs the record and saves.

        After a signal the evaluation is broken off, and the state saved without it.
        """
        self.divergence.check_whole(self.state)

        # The evaluation.
        epoch = self.step // self.work.steps_per_epoch - 1  # from 0
        try:
            state, record, top1 = self.work.finish_epoch(
                self.state, epoch, between_batches=self._between_batches
            )
        except Interrupted as interrupted:
            # The state has no accuracy of this epoch, by which the next start sees that
            # it has to evaluate (`resume.is_evaluated`).
            if self.saved < self.step:
                self._save()
            raise self._stopped(interrupted.number) from None
        self.state = self.where.settle(state)

        # The clock of the next epoch begins here.
        record["seconds"] = round(time.monotonic() - self.started, 3)
        self.started = time.monotonic()

        # The record comes before the save: after a crash between the two it is cut off
        # and written again.
        self.log.write(record)
        self.progress.say(line_of(record))
        self.log.note(line_of(record))
        self._save(top1)

    def conclude(self) -> None:
        """Computes what else the result needs.

        It is not saved: after a signal the next start computes it anew.
        """
        try:
            self.work.conclude(self.state, between_batches=self._between_batches)
        except Interrupted as interrupted:
            raise self._stopped(interrupted.number) from None

    def _between_batches(self) -> None:
        # An evaluation may take longer than the watchdog's patience.
        self.watchdog.beat(self.step)
        self.stops.check()

    def _save(self, top1: float | None = None) -> None:
        self.checkpoints.save(self.step, self.state, top1=top1)
        self.saved = self.step
        self.saves.done()

    def _stopped(self, signal: int) -> Stopped:
        """The end of a run after a signal, once the state is on disk.

        Raises `UserError` where the state could not be saved.
        """
        self.checkpoints.finish()
        stopped = Stopped(signal, self.step)
        self.log.note(str(stopped))
        return stopped


@contextlib.contextmanager
def _finishing(checkpoints: Checkpoints):
    """Waits at the end for what is being saved, but not after a second Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException:
        # An error of the last save must not take the place of the one that ended the
        # run.
        with contextlib.suppress(UserError):
            checkpoints.close()
        raise
    checkpoints.close()
