"""`Task`: the common part of a search and a training.

The loop calls a task from its first state to its summary.
"""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import jax
import numpy as np

from bnas_jax.data.facts import Facts
from bnas_jax.data.load import Dataset
from bnas_jax.runtime import jax_setup
from bnas_jax.runtime.compiling import Call, compile_together
from bnas_jax.runtime.devices import Devices
from bnas_jax.settings import Settings
from bnas_jax.training import build_optimizers, latents, loop
from bnas_jax.training.build import Program
from bnas_jax.training.checkpoints import Checkpoints
from bnas_jax.training.evaluate import Evaluator
from bnas_jax.training.run_data import load_run_data
from bnas_jax.training.workdir import WorkDir, write_json

# Called between two batches of an evaluation. An exception that it raises ends it.
BetweenBatches = Callable[[], None]


class Task:
    """A run in a work directory: a new run, or one that is resumed from a checkpoint.

    A subclass defines how to build the program (`build`), what to do at the end of an
    epoch (`finish_epoch`), and the summary (`summary`).

    run: the settings.
    workdir: the work directory. The run continues from the newest checkpoint there.
    where: the devices, if JAX is configured already; None takes those of the settings.
    change: whether the run may continue with other settings.

    Raises `UserError` for data, sizes and a work directory that do not fit, before
    anything is written.
    """

    # `test` or `valid`: the images that an epoch is evaluated on, and the prefix of the
    # results in the epoch's record.
    split: ClassVar[str]
    # Each subclass has its own types of these.
    run: Any
    program: Any
    evaluator: Any

    def __init__(
        self,
        run: Settings,
        workdir: WorkDir,
        *,
        where: Devices | None = None,
        change: bool = False,
    ):
        self.run = run
        self.workdir = workdir
        self.where = where or jax_setup.configure(run)
        self.where.check_batch(run)

        # The data, the program, and the shapes of a state. Tracing the first state
        # raises `UserError` for an image size that the network cannot take.
        self.data, facts = load_run_data(run, workdir, change=change)
        self.program = self.build(self.data)
        self.shapes = jax.eval_shape(self.program.create, 0)

        # All checks are done: from here on files are written.
        self.open(facts, change=change)
        self._warn()

        # Checkpoints, and the programs, which are not compiled yet.
        self.checkpoints = Checkpoints(
            workdir.checkpoints, settings=run.checkpoint, where=self.where
        )
        # Checkpoints from before a change may be of another precision or number of
        # epochs.
        self.changed = change or bool(workdir.changed())
        self.steps = self.where.compile_steps(*self.program.stages)
        self.evaluator = self.build_evaluator()

    def _warn(self) -> None:
        """Warns of settings that are allowed, but are probably a mistake."""
        # Kernels that the projection keeps at zero.
        zero = latents.kernels_always_zero(self.shapes.params, self.run.scheme)
        if zero:
            self.workdir.say(
                f"warning: config.scheme.depthwise_center=True keeps {len(zero)} "
                f"depthwise kernels at zero, {zero[0]} first: "
                "they put out nothing and never learn, as in XNOR-Net's codes; False "
                "leaves them uncentred"
            )

        # A schedule that rises above its learning rate.
        for setting in build_optimizers.higher_rates(self.run):
            self.workdir.say(
                f"warning: {setting} is above the learning_rate beside it, which "
                "should be the highest of the schedule; "
                "write a smaller one, too"
            )

        # A schedule that has ended before its only epoch.
        position = build_optimizers.never_learns(self.run)
        if position is not None:
            self.workdir.say(
                "warning: the learning rate is 0 in every step, so that nothing is "
                f"learned: write {position}=0, or more epochs"
            )

    def build(self, data: Dataset) -> Program:
        """The program of the run."""
        raise NotImplementedError

    def build_evaluator(self) -> Evaluator | None:
        """The evaluator for the end of an epoch; None if there are no images for it."""
        return Evaluator(
            self.program.model,
            self.program.held_out,
            self.data.augmentation,
            self.run,
            where=self.where,
        )

    def open(self, facts: Facts, *, change: bool) -> None:
        """Opens the work directory: writes its files for a new run, or checks them."""
        self.workdir.open(self.run, facts, change=change)

    @property
    def steps_per_epoch(self) -> int:
        """The number of steps in an epoch."""
        return self.program.steps_per_epoch

    def begin(self) -> Any:
        """The newest state that was saved, or else the first one."""
        saved = self.checkpoints.restore_state(self.shapes, self.changed)
        return saved or self.first_state()

    def first_state(self) -> Any:
        """The state of a new run."""
        return self.where.create(self.program.create, np.uint32(self.run.seed))

    def prepare(self, state, calls: list[range]) -> None:
        """Compiles the programs of the calls and of the evaluation; runs none of them.

        calls: the numbers of the steps of each call.
        """

        # A generator, so that a program is traced while XLA compiles the previous one.
        def needed() -> Iterator[Call]:
            for call in calls:
                feeds = [self.program.feeds(step) for step in call]
                yield from self.steps.calls(state, feeds)
            if self.evaluator is not None:
                yield self.evaluator.call(state.variables)

        compile_together(needed())

    def advance(self, state, steps: range) -> Any:
        """The state after the steps with these numbers, in a single call.

        Several steps are a single program. A single step has a program for each stage.
        """
        feeds = [self.program.feeds(step) for step in steps]
        return self.steps(state, feeds)

    def finish_epoch(
        self, state, epoch: int, between_batches: BetweenBatches
    ) -> tuple[Any, dict, float | None]:
        """(the state for the next epoch, the epoch's record, the accuracy).

        The accuracy is the top-1 in %, by which checkpoints are compared, or None.
        """
        raise NotImplementedError

    def conclude(self, state, between_batches: BetweenBatches) -> None:
        """Computes the rest of the summary, after the last epoch."""

    def summary(self, state) -> dict:
        """The contents of summary.json, for a run that has ended."""
        raise NotImplementedError

    def record(self, state, epoch: int, result: dict) -> dict:
        """A line of metrics.jsonl: the record of an epoch.

        It has means over the epoch's training examples, and the results of the
        evaluation.

        epoch: the number of the epoch, from 0.
        result: the result of `Evaluator`, {"top1", "loss", ...}.
        """
        examples = float(state.sums.examples)
        record = {
            "epoch": epoch,
            "step": int(state.step),
            "train_loss": float(state.sums.loss) / examples,
            "train_top1": 100 * float(state.sums.correct) / examples,
        }
        for name, value in result.items():
            # The number of examples is the same in every epoch.
            if name != "num_examples":
                record[f"{self.split}_{name}"] = value
        return record


def run_task(task: Task) -> dict:
    """Runs a task to its end; returns its summary and writes it to summary.json."""
    state = loop.run(task, task.run, task.workdir, task.checkpoints, where=task.where)
    summary = task.summary(state)
    write_json(task.workdir / "summary.json", summary)
    return summary
