"""What a search and a training have in common: a task.

The loop drives it from its first state to its summary.
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

# Called between two batches of an evaluation; what it raises ends the evaluation.
BetweenBatches = Callable[[], None]


class Task:
    """A run in a work directory: a new one, or one that goes on from a checkpoint.

    A subclass builds the program of its kind of run (`build`), ends its epochs
    (`finish_epoch`), and makes its summary (`summary`).

    run: the settings.
    workdir: the directory of the run; it goes on from the newest checkpoint there.
    where: the devices to use, once JAX is configured; None is those of the settings.
    change: whether the run may go on with other settings.

    Raises `UserError` for data, sizes and a work directory that do not fit, before
    anything is written.
    """

    # `test` or `valid`: the images that an epoch is evaluated on. Fields of the epoch's
    # record have it in their names.
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
        # refuses an image size that the network cannot take.
        self.data, facts = load_run_data(run, workdir, change=change)
        self.program = self.build(self.data)
        self.shapes = jax.eval_shape(self.program.create, 0)

        # All checks are behind: from here on files are written.
        self.open(facts, change=change)
        self._warn()

        # Checkpoints, and the programs, which are compiled when they are first called.
        self.checkpoints = Checkpoints(
            workdir.checkpoints, settings=run.checkpoint, where=self.where
        )
        # Checkpoints from before a change may be of another precision or number of
        # epochs.
        self.changed = change or bool(workdir.changed())
        self.steps = self.where.compile_steps(*self.program.stages)
        self.evaluator = self.build_evaluator()

    def _warn(self) -> None:
        """Warns of what the settings allow, but hardly anybody wants."""
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

    def build(self, data: Dataset) -> Program:
        """The program of the run."""
        raise NotImplementedError

    def build_evaluator(self) -> Evaluator | None:
        """The evaluation at the end of an epoch, None without images for it."""
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
        """Compiles the programs of those calls and of the evaluation.

        The programs are not run.

        calls: the numbers of the steps of each call.
        """

        # A generator: a program is traced while XLA compiles the one before.
        def needed() -> Iterator[Call]:
            for call in calls:
                feeds = [self.program.feeds(step) for step in call]
                yield from self.steps.calls(state, feeds)
            if self.evaluator is not None:
                yield self.evaluator.call(state.variables)

        compile_together(needed())

    def advance(self, state, steps: range) -> Any:
        """The state after the steps of those numbers, which one call makes.

        Several steps are one program. A single step is a program for each stage.
        """
        feeds = [self.program.feeds(step) for step in steps]
        return self.steps(state, feeds)

    def finish_epoch(
        self, state, epoch: int, between_batches: BetweenBatches
    ) -> tuple[Any, dict, float | None]:
        """Ends an epoch: (the state to go on with, the epoch's record, its accuracy).

        The accuracy is top-1 in %, by which checkpoints are compared, or None.
        """
        raise NotImplementedError

    def conclude(self, state, between_batches: BetweenBatches) -> None:
        """Computes what else the summary needs, after the last epoch."""

    def summary(self, state) -> dict:
        """The contents of summary.json, for a run that has ended."""
        raise NotImplementedError

    def record(self, state, epoch: int, result: dict) -> dict:
        """A line of metrics.jsonl.

        It has means over the epoch's training examples, and the result of its
        evaluation.

        epoch: its number, from 0.
        result: {"top1", "loss", ...} as `Evaluator` gives it.
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
    """Brings a task to its end.

    Returns its summary, which is also written to summary.json.
    """
    state = loop.run(task, task.run, task.workdir, task.checkpoints, where=task.where)
    summary = task.summary(state)
    write_json(task.workdir / "summary.json", summary)
    return summary
