"""`train`: trains a final network, from settings to summary.json (section 5.1)."""

from typing import Any

import jax.numpy as jnp

from bnas_jax.data.facts import Facts
from bnas_jax.data.load import Dataset
from bnas_jax.runtime.devices import Devices
from bnas_jax.settings import TrainSettings
from bnas_jax.training import build, fine_tune, teacher
from bnas_jax.training.build import Program
from bnas_jax.training.fine_tune import Init
from bnas_jax.training.state import Sums, TrainState
from bnas_jax.training.task import BetweenBatches, Task, run_task
from bnas_jax.training.workdir import WorkDir


def train(
    run: TrainSettings,
    workdir: WorkDir,
    where: Devices | None = None,
    *,
    change: bool = False,
    init: Init | None = None,
) -> dict:
    """Trains a network; writes summary.json.

    A training that was started before continues from the newest checkpoint in
    `workdir`. Returns summary.json: {"top1", "top5" (in %, of the last epoch, on the
    test images), "loss", "num_examples", "steps", "best_top1", "best_epoch"}, with
    `init` also "init".

    run: the settings.
    workdir: the work directory, into which everything is written.
    where: the devices, if JAX is configured already; None takes those of the settings.
    change: whether the run may continue with other settings.
    init: the checkpoint of another run that a new run is initialised with.

    Raises `Stopped` after a signal, once the state is saved, and `UserError` for
    mistakes that the user can correct and for a divergence.

    Example: `train(settings.from_config(train_configs.get_config("digits")),
    WorkDir("runs/train"))`, where `train_configs` is configs/train.py.
    """
    return run_task(TrainTask(run, workdir, where=where, change=change, init=init))


class TrainTask(Task):
    """The task of training a final network.

    init: the checkpoint of another run that a new run is initialised with.
    """

    split = "test"

    def __init__(
        self,
        run: TrainSettings,
        workdir: WorkDir,
        *,
        init: Init | None = None,
        **options,
    ):
        self._init = init
        # The entries "init" and "teacher" of run.json.
        self._origin: dict | None = None
        self._teacher: dict | None = None
        # The last evaluation.
        self._result: dict[str, float] | None = None
        super().__init__(run, workdir, **options)

    def build(self, data: Dataset) -> Program:
        self._teacher = teacher.origin(self.run, self.workdir)
        loaded = None
        if self._teacher is not None:
            loaded = teacher.load(
                self._teacher, self.run, data, self.where, workdir=self.workdir
            )
        return build.training(self.run, data, where=self.where, teacher=loaded)

    def open(self, facts: Facts, *, change: bool) -> None:
        # Check the weights before the directory is made, so that an error leaves
        # nothing behind.
        self._origin = fine_tune.origin(
            self.workdir, init=self._init, run=self.run, facts=facts.known()
        )
        entries = {"init": self._origin, "teacher": self._teacher}
        self.workdir.open(self.run, facts, change=change, entries=entries)
        if self._teacher is not None:
            teacher.keep(self._teacher, self.workdir)

    def first_state(self) -> TrainState:
        state = super().first_state()
        if self._origin is None:
            return state

        # `--init`: replace the drawn weights by those of another run.
        self.workdir.say(fine_tune.describe(self._origin))
        image_shape = self.data.train.image_shape
        return fine_tune.begin(
            state, self._origin, self.run, image_shape, where=self.where
        )

    def finish_epoch(
        self, state: TrainState, epoch: int, between_batches: BetweenBatches
    ):
        # The evaluation on the test images.
        result = self.evaluator(state.variables, between_batches=between_batches)
        self._result = result
        top1 = result["top1"]
        record = self.record(state, epoch, result=result)

        # The state of the next epoch, with sums of zero.
        state = state.replace(
            sums=Sums.zeros(self.program.model.arithmetic.dtype),
            test_top1=state.test_top1.at[epoch].set(top1),
        )
        return state, record, top1

    def conclude(self, state: TrainState, between_batches: BetweenBatches) -> None:
        # Evaluate a run that had ended before. In all other runs the last epoch has
        # just been evaluated.
        if self._result is None:
            self._result = self.evaluator(
                state.variables, between_batches=between_batches
            )

    def summary(self, state: TrainState) -> dict:
        assert self._result is not None, "of `conclude`"
        best = int(jnp.nanargmax(state.test_top1))
        summary: dict[str, Any] = {
            **self._result,
            "steps": int(state.step),
            "best_top1": float(state.test_top1[best]),
            "best_epoch": best,
        }
        if self._origin is not None:
            summary["init"] = self._origin
        return summary
