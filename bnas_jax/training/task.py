"""What search and train have in common: a task, which the loop drives from its first state to its summary."""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import jax
import numpy as np

from bnas_jax.data.facts import Facts
from bnas_jax.data.load import Dataset
from bnas_jax.runtime import devices
from bnas_jax.runtime.compiling import Call, compile_together
from bnas_jax.runtime.devices import Devices
from bnas_jax.settings import Settings
from bnas_jax.training import loop, optimizers
from bnas_jax.training.build import Program
from bnas_jax.training.checkpoints import Checkpoints
from bnas_jax.training.evaluate import Evaluator, load_run_data
from bnas_jax.training.workdir import WorkDir, write_json

# Called between two batches of an evaluation; what it raises ends the evaluation.
BetweenBatches = Callable[[], None]


class Task:
    """A run in a work directory: a new one, or one that goes on from the newest checkpoint there.

    run: its settings. where: the devices to use, once JAX is configured; None is those of the settings. change: goes on with
    other settings. A subclass says how its program is built, what the end of an epoch is, and what its summary holds.

    Raises `UserError` for data, sizes and a work directory that do not fit, before anything is written.
    """

    # What an epoch is evaluated on, in the names of its record.
    split: ClassVar[str]
    # Those of the subclass's task.
    run: Any
    program: Any
    evaluator: Any

    def __init__(
        self, run: Settings, workdir: WorkDir, *, where: Devices | None = None, change: bool = False
    ):
        self.run, self.workdir = run, workdir
        self.where = where or devices.configure(run)
        self.where.check_batch(run)

        self.data, facts = load_run_data(run, workdir, change=change)
        self.program = self.build(self.data)
        self.shapes = jax.eval_shape(
            self.program.create, 0
        )  # refuses an image size that the network cannot take
        self.open(facts, change=change)
        zero = optimizers.kernels_always_zero(self.shapes.params, run.scheme)
        if zero:
            workdir.say(
                f"warning: config.scheme.depthwise_center=True keeps {len(zero)} depthwise kernels at zero, {zero[0]} first: "
                "they put out nothing and never learn, as in XNOR-Net's codes; False leaves them uncentred"
            )

        self.checkpoints = Checkpoints(workdir.checkpoints, run.checkpoint, self.where)
        self.changed = change or bool(workdir.changed())
        self.steps = self.where.compile_steps(*self.program.stages)
        self.evaluator = self.build_evaluator()

    def build(self, data: Dataset) -> Program:
        """The program of the run."""
        raise NotImplementedError

    def build_evaluator(self) -> Evaluator | None:
        """What evaluates the end of an epoch, None where there is nothing to evaluate on."""
        return Evaluator(
            self.program.model,
            self.program.held_out,
            self.data.augmentation,
            self.run,
            where=self.where,
        )

    def open(self, facts: Facts, *, change: bool) -> None:
        """Takes the work directory."""
        self.workdir.open(self.run, facts, change=change)

    @property
    def steps_per_epoch(self) -> int:
        """The number of steps."""
        return self.program.steps_per_epoch

    def begin(self) -> Any:
        """The newest state that was saved, or the first one."""
        return self.checkpoints.restore_state(self.shapes, self.changed) or self.first_state()

    def first_state(self) -> Any:
        """The state of a new run."""
        return self.where.create(self.program.create, np.uint32(self.run.seed))

    def prepare(self, state, calls: list[range]) -> None:
        """Compiles what calls of steps and the evaluation need, without making them."""

        def needed() -> Iterator[Call]:
            for call in calls:
                yield from self.steps.calls(state, [self.program.feeds(step) for step in call])
            if self.evaluator is not None:
                yield self.evaluator.call(state.variables)

        compile_together(needed())

    def advance(self, state, steps: range) -> Any:
        """The state after the steps of those numbers, which make one call."""
        return self.steps(state, [self.program.feeds(step) for step in steps])

    def finish_epoch(
        self, state, epoch: int, between_batches: BetweenBatches
    ) -> tuple[Any, dict, float]:
        """(the state to go on with, the record of the epoch, the accuracy in % by which checkpoints are compared)."""
        raise NotImplementedError

    def summary(self, state) -> dict:
        """summary.json of a run that has ended."""
        raise NotImplementedError

    def record(self, state, epoch: int, result: dict) -> dict:
        """A record of metrics.jsonl: means of the epoch's training, and the result of its evaluation."""
        examples = float(state.sums.examples)
        evaluated = {
            f"{self.split}_{name}": value
            for name, value in result.items()
            if name != "num_examples"
        }
        return {
            "epoch": epoch,
            "step": int(state.step),
            "train_loss": float(state.sums.loss) / examples,
            "train_top1": 100 * float(state.sums.correct) / examples,
            **evaluated,
        }


def run_task(task: Task) -> dict:
    """Brings a task to its end; its summary, which is also written."""
    state = loop.run(task, task.run, task.workdir, task.checkpoints, where=task.where)
    summary = task.summary(state)
    write_json(task.workdir / "summary.json", summary)
    return summary
