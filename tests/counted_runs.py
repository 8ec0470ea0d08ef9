"""A run without a network, whose weights count the steps, and its checkpoints."""

import dataclasses
import hashlib
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from bnas_jax import settings
from bnas_jax.data.facts import Facts
from bnas_jax.settings import CheckpointSettings
from bnas_jax.training import loop
from bnas_jax.training.checkpoints import Checkpoints
from bnas_jax.training.state import Sums, TrainState
from bnas_jax.training.workdir import WorkDir
from configs import train as train_configs

EPOCHS, STEPS_PER_EPOCH = 2, 5
MOST_EPOCHS = 6


def counting(step: int = 0) -> TrainState:
    """The state at `step` of a run whose weights and loss are functions of the step,
    all epochs behind it evaluated.
    """
    value = jnp.float32(step)
    params = {
        "layer": {"latent": jnp.full((2, 3), value), "bias": jnp.arange(4.0) + value}
    }
    return TrainState(
        step=jnp.int32(step),
        seed=jnp.uint32(0),
        params=params,
        batch_stats={"layer": {"mean": jnp.full(3, -value)}},
        opt_state=({"trace": jnp.full((2, 3), 2 * value)},),
        sums=Sums(*(value * n for n in (1, 2, 3))),
        test_top1=jnp.where(
            jnp.arange(1, MOST_EPOCHS + 1) * STEPS_PER_EPOCH <= step,
            jnp.float32(50),
            jnp.nan,
        ),
    )


SHAPES = jax.eval_shape(counting)


def same(one, other) -> bool:
    """Bit for bit, with NaN equal to NaN."""
    equal = lambda a, b: (
        a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
    )
    return jax.tree.structure(one) == jax.tree.structure(other) and jax.tree.all(
        jax.tree.map(equal, one, other)
    )


class Counting:
    """A loop's work over `counting`, in a work directory of its own, that notes what it
    is asked to do.
    """

    steps_per_epoch = STEPS_PER_EPOCH

    def __init__(self, folder: pathlib.Path, **changes):
        run = settings.from_config(train_configs.get_config("digits"))
        keep = CheckpointSettings(keep_last=100, keep_best=1)
        self.run = dataclasses.replace(
            run, **{"num_epochs": EPOCHS, "checkpoint": keep, **changes}
        )
        self.workdir = WorkDir(folder)
        self.workdir.open(self.run, Facts(num_classes=10, image_shape=(8, 8, 1)))
        self.made: list[int] = []
        self.finished: list[int] = []
        self.before = lambda step, state: state  # for a test to interfere
        self.evaluating = lambda between_batches: None  # the same
        self.concluding = lambda between_batches: None

    def start(self, top1=lambda epoch: 50.0):
        self.top1 = top1
        self.checkpoints = Checkpoints(self.workdir.checkpoints, self.run.checkpoint)
        return loop.run(self, self.run, self.workdir, self.checkpoints)

    def begin(self):
        return self.checkpoints.restore_state(SHAPES) or counting()

    def prepare(self, state, calls):
        self.prepared = calls

    def advance(self, state, steps):
        assert int(state.step) == steps.start
        self.made += steps
        return self.before(
            steps.stop, counting(steps.stop).replace(test_top1=state.test_top1)
        )

    def finish_epoch(self, state, epoch, between_batches):
        self.finished.append(epoch)
        self.evaluating(between_batches)
        state = state.replace(test_top1=state.test_top1.at[epoch].set(50.0))
        return state, {"epoch": epoch, "step": int(state.step)}, self.top1(epoch)

    def conclude(self, state, between_batches):
        self.concluding(between_batches)

    def saved(self) -> list[int]:
        return sorted(
            int(p.name) for p in self.workdir.checkpoints.iterdir() if p.name.isdigit()
        )

    def records(self) -> list[dict]:
        return [
            {k: v for k, v in r.items() if k != "seconds"}
            for r in self.workdir.read_metrics()
        ]


RECORDS = [{"epoch": 0, "step": 5}, {"epoch": 1, "step": 10}]


def variables_of(state) -> dict:
    return {"params": state.params, "batch_stats": state.batch_stats}


def tree_of(folder: pathlib.Path) -> dict[str, str]:
    """The files below a folder and what is in them."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def restored(folder: pathlib.Path):
    """The state that a run would go on from."""
    checkpoints = Checkpoints(folder, CheckpointSettings(keep_last=3))
    try:
        return checkpoints.restore_state(SHAPES)
    finally:
        checkpoints.close()


def cut(path: pathlib.Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: pathlib.Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def arrays_file(step: pathlib.Path, item: str = "variables") -> pathlib.Path:
    """A file of a checkpoint that holds arrays."""
    return next((step / item / "d").iterdir())
