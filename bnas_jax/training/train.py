"""Training a final network from scratch, from settings to a finished work directory (section 5.1)."""

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from bnas_jax.data.load import Dataset
from bnas_jax.data.sources import train_source
from bnas_jax.settings import TrainSettings
from bnas_jax.runtime import devices
from bnas_jax.training import fine_tune, loop, optimizers, steps
from bnas_jax.training.checkpoints import Checkpoints
from bnas_jax.runtime.compiling import Call, compile_together
from bnas_jax.runtime.devices import Devices, Steps
from bnas_jax.training.evaluate import Evaluator, build_network, load_run_data
from bnas_jax.training.fine_tune import Init
from bnas_jax.training.program import Program
from bnas_jax.training.state import Sums, TrainState, create_train_state
from bnas_jax.training.workdir import WorkDir, write_json


def program(run: TrainSettings, data: Dataset, where: Devices) -> Program:
    """The training of a final network."""
    model = build_network(run, data.train.num_classes, where.axis)
    source = train_source(
        data.train, run.batch_size, run.seed, data.augmentation, model.rules.dtype, where.placement(run.microbatches)
    )
    optimizer = optimizers.for_training(run, source.steps_per_epoch)

    def step(state: TrainState, feed) -> TrainState:
        return steps.train_step(
            state,
            where.batch(source, feed, run.microbatches),
            model=model,
            optimizer=optimizer,
            smoothing=run.optimizer.label_smoothing,
            drop_path=run.optimizer.drop_path,
            num_epochs=run.num_epochs,
            steps_per_epoch=source.steps_per_epoch,
            seed=run.seed,
            microbatches=run.microbatches,
            axis=where.axis,
        )

    create = lambda: create_train_state(model, data.train.image_shape, optimizer, run.seed, run.num_epochs)
    return Program(model, create, (step,), lambda step: (source.feed(step),), source.steps_per_epoch, data.test)


def train(
    run: TrainSettings,
    workdir: WorkDir,
    where: Devices | None = None,
    change: bool = False,
    init: Init | None = None,
) -> dict:
    """Trains, or goes on where the work directory stands. Returns the test accuracy of the last epoch: summary.json.

    where: the devices to use, once JAX is configured; None is those of the settings. change: goes on with other settings.
    init: the checkpoint of another run that a new one begins with.
    """
    where = where or devices.configure(run)
    where.check_batch(run)
    data, facts = load_run_data(run, workdir, change=change)
    model, create, stages, feeds, steps_per_epoch, held_out = program(run, data, where)
    shapes = jax.eval_shape(create)  # refuses an image size that the network cannot take before anything is written
    shape = data.train.image_shape
    origin = fine_tune.origin(workdir, init, run, facts.known())
    workdir.open(run, facts, change=change, init=origin)
    checkpoints = Checkpoints(workdir.checkpoints, run.checkpoint, where)
    changed = change or bool(workdir.changed())

    def begin() -> TrainState:
        saved = checkpoints.restore_state(shapes, changed)
        if saved is not None or origin is None:
            return saved or where.create(create)
        workdir.say(fine_tune.describe(origin))
        return fine_tune.begin(where.create(create), origin, run, shape, where=where)

    compiled = where.compile_steps(*stages)
    evaluator = Evaluator(model, held_out, data.augmentation, run, where)
    result = None

    def finish_epoch(state: TrainState, epoch: int, between_batches: Callable[[], None]):
        nonlocal result
        result = evaluator(*state.variables, between_batches=between_batches)
        record = epoch_record(state, epoch, "test", result)
        top1 = state.test_top1.at[epoch].set(result["top1"])
        return state.replace(sums=Sums.zeros(model.rules.dtype), test_top1=top1), record, result["top1"]

    work = loop.Work(
        steps_per_epoch,
        prepare=functools.partial(prepare, compiled, feeds, evaluator),
        advance=lambda state, steps: compiled(state, [feeds(step) for step in steps]),
        finish_epoch=finish_epoch,
    )
    state = loop.run(begin, run, workdir, checkpoints, work, where)
    result = result or evaluator(*state.variables)  # of a run that had ended before
    best = int(jnp.nanargmax(state.test_top1))
    summary: dict = {**result, "steps": int(state.step), "best_top1": float(state.test_top1[best]), "best_epoch": best}
    if origin is not None:
        summary["init"] = origin
    write_json(workdir / "summary.json", summary)
    return summary


def prepare(compiled: Steps, feeds: Callable[[int], tuple], evaluator: Evaluator, state, calls: list[range]) -> None:
    """Compiles what calls of steps and the evaluation need, without making them."""

    def needed() -> Iterator[Call]:
        for call in calls:
            yield from compiled.calls(state, [feeds(step) for step in call])
        yield evaluator.call(*state.variables)

    compile_together(needed())


def epoch_record(state, epoch: int, split: str, result: dict) -> dict:
    """A record of metrics.jsonl: means of the epoch's training, and the evaluation on a split."""
    examples = float(state.sums.examples)
    return {
        "epoch": epoch,
        "step": int(state.step),
        "train_loss": float(state.sums.loss) / examples,
        "train_top1": 100 * float(state.sums.correct) / examples,
        **{f"{split}_{name}": value for name, value in result.items() if name != "num_examples"},
    }
