"""Accuracy of a network on a data set, every example once; and the evaluation of a work directory's checkpoint."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax

from bnas_jax.core.errors import UserError
from bnas_jax.data import facts as facts_lib
from bnas_jax.data import load
from bnas_jax.data.arrays import Arrays
from bnas_jax.data.augment import Augmentation
from bnas_jax.data.facts import Facts
from bnas_jax.data.load import Dataset, Statistics, TestSet
from bnas_jax.data.readers.encoded import Encoded, ReadOptions
from bnas_jax.data.sources import eval_source
from bnas_jax.runtime import devices
from bnas_jax.runtime.compiling import Call
from bnas_jax.runtime.devices import Devices
from bnas_jax.search import Searcher
from bnas_jax.settings import DatasetSettings, RunSettings, Settings, TrainSettings
from bnas_jax.training import build
from bnas_jax.training.checkpoints import Checkpoints
from bnas_jax.training.evaluation_step import EvaluationStep
from bnas_jax.training.state import initial_variables
from bnas_jax.training.workdir import WorkDir


def load_data(dataset: DatasetSettings) -> Dataset:
    """The data of a run, augmented and normalised as its settings say."""
    data = load.load(
        dataset.name,
        path=dataset.path,
        options=read_options(dataset),
        statistics=_statistics(dataset),
    )
    return data._replace(augmentation=_augmentation(data.augmentation, dataset))


def data_of_parts(dataset: DatasetSettings, parts: dict[str, Encoded]) -> Dataset:
    """As `load_data`, of a data set with these parts, "train" and "test", in place of its files."""
    options = load.with_defaults(dataset.name, read_options(dataset))
    data = load.from_parts(
        dataset.name, parts=parts, options=options, statistics=_statistics(dataset)
    )
    return data._replace(augmentation=_augmentation(data.augmentation, dataset))


def load_test_data(dataset: DatasetSettings, statistics: Statistics | None) -> Dataset | TestSet:
    """The data that evaluation needs. statistics: see `data.load.load_test`; those of the settings take precedence."""
    statistics = _statistics(dataset) or statistics
    # Without the training images, where the statistics are known.
    data = load.load_test(
        dataset.name,
        path=dataset.path,
        options=read_options(dataset),
        statistics=statistics,
    )
    return data._replace(augmentation=_augmentation(data.augmentation, dataset))


def _statistics(dataset: DatasetSettings) -> Statistics | None:
    """(mean, std) of the settings, None where they are not set."""
    if dataset.mean is None or dataset.std is None:
        return None
    return dataset.mean, dataset.std


def _augmentation(augmentation: Augmentation, dataset: DatasetSettings) -> Augmentation:
    """The data set's augmentation with what the settings change in it."""
    changes: dict[str, Any] = {}
    for name in ("pad", "flip", "min_area", "jitter", "cutout"):
        value = getattr(dataset, name)
        if value is not None:
            changes[name] = value
    return dataclasses.replace(augmentation, **changes)


def load_run_data(
    run: Settings, workdir: WorkDir, *, change: bool = False
) -> tuple[Dataset, Facts]:
    """The data of a run, and the facts about them: learned now for a new run, else as they were when it began.

    `UserError` where the work directory belongs to a run with other settings or other data. change: see `WorkDir.open`.
    """
    data = load_data(run.dataset)
    # A search does not look at the test images.
    test = None
    if isinstance(run, TrainSettings):
        test = data.test
    facts = workdir.check(run, facts_lib.learn(data, test), change=change)
    return facts_lib.with_statistics(data, facts), facts


def read_options(dataset: DatasetSettings) -> ReadOptions:
    """How the files of a data set are read, as its settings say."""
    # Settings have the names of the options, but for `bad_images`.
    settings = {field.name for field in dataclasses.fields(dataset)}
    values: dict[str, Any] = {}
    for field in dataclasses.fields(ReadOptions):
        if field.name in settings:
            values[field.name] = getattr(dataset, field.name)
    return ReadOptions(skip_bad=dataset.bad_images == "skip", **values)


class Evaluator:
    """Evaluates on one data set; the step is compiled once.

    model: a network, or a supernet together with the searcher that makes its mixture of alpha. augment_seed: of the
    augmentation, where images are augmented as in training, else None. batch_size: None is that of the settings.
    batch_statistics: see `EvaluationStep`.
    """

    def __init__(
        self,
        model: nn.Module,
        examples: Arrays | Encoded,
        augmentation: Augmentation,
        run: RunSettings,
        *,
        where: Devices = devices.ONE,
        searcher: Searcher | None = None,
        augment_seed: int | None = None,
        batch_size: int | None = None,
        batch_statistics: bool = False,
    ):
        # A multiple of the number of devices; the last batch is padded with examples of weight 0.
        batch_size = batch_size or min(run.eval_batch_size, len(examples))
        batch_size = -(-batch_size // where.count) * where.count
        self.batch_size = batch_size
        self._source = eval_source(
            examples,
            batch_size=batch_size,
            augmentation=augmentation,
            dtype=model.arithmetic.dtype,
            placement=where.placement(),
            augment_seed=augment_seed,
        )
        step = EvaluationStep(
            model, searcher=searcher, axis=where.axis, batch_statistics=batch_statistics
        )

        # As in training, the batch is made from its feed inside the compiled function.
        def evaluation(variables, feed):
            return step(variables, where.batch(self._source, feed))

        self._step = where.compile_evaluation(evaluation)

    def call(self, variables: dict, *, batch: int = 0, epoch: int = 0) -> Call:
        """The program of a batch and its arguments, for `compile_together`."""
        return self._step, (variables, self._source.feed(batch, epoch))

    def __call__(
        self,
        variables: dict,
        *,
        epoch: int = 0,
        between_batches: Callable[[], object] = lambda: None,
        batches: Sequence[int] | None = None,
    ) -> dict[str, float]:
        """{"top1", "top5"} in %, the mean "loss" and "num_examples".

        variables: {"params", "batch_stats"}, and "alphas" of a supernet. epoch: the one whose augmentation is drawn, where
        images are augmented. between_batches: called between two batches; an exception that it raises ends the evaluation.
        batches: the numbers of the batches to evaluate on, None is all.
        """
        sums: list[Any] = []
        for batch in batches or range(len(self._source)):
            if sums:
                # No more than two batches are under way, or `between_batches` would run long before its batch.
                jax.block_until_ready(sums[-2:-1])
                between_batches()
            program, arguments = self.call(variables, batch=batch, epoch=epoch)
            sums.append(program(*arguments))

        # Added up in Python's float64: a sum in float32 loses digits over many batches.
        added = lambda *parts: sum(float(part) for part in parts)
        total = jax.tree.map(added, *sums)
        count = total.examples
        return {
            "top1": 100 * total.top1 / count,
            "top5": 100 * total.top5 / count,
            "loss": total.loss / count,
            "num_examples": int(count),
        }


def evaluate(workdir: WorkDir, run: Settings, which: str = "last") -> dict:
    """Restores a checkpoint of `train` or `import` and evaluates it on the test split: {"top1", "top5", "loss", "num_examples",
    "step"}.

    run: the work directory's settings, perhaps with another data set; its pixels are normalised and its labels numbered as
    those of the run's data, see `data.facts`. which: `last`, `best` or a step.
    Raises `UserError` for a search, a data set with other channels or unknown classes, and where there is no such checkpoint.
    """
    if not isinstance(run, TrainSettings):
        raise UserError(
            f"{workdir.path} holds a search; evaluate takes the work directory of a training"
        )
    where = devices.configure(run)
    facts = facts_lib.from_dict(workdir.facts())
    test, augmentation = evaluation_images(run.dataset, facts)

    # The network, and its variables from the checkpoint.
    model = build.network(run, facts.num_classes)
    shapes = jax.eval_shape(lambda: initial_variables(model, test.image_shape, seed=0))
    if not workdir.checkpoints.is_dir():
        raise UserError(f"no checkpoint in {workdir.path}; run train with this --workdir first")
    # To read only: nothing is moved or deleted.
    checkpoints = Checkpoints(workdir.checkpoints, where=where)
    with contextlib.closing(checkpoints):
        step, variables = checkpoints.restore_variables(shapes, which)
    evaluator = Evaluator(model, test, augmentation, run, where=where)
    result = evaluator({"params": variables["params"], "batch_stats": variables["batch_stats"]})
    return {**result, "step": step}


def evaluation_images(
    dataset: DatasetSettings, facts: Facts
) -> tuple[Arrays | Encoded, Augmentation]:
    """The test split with the labels, and the normalisation, of the run whose facts these are. For errors see `evaluate`."""
    data = load_test_data(dataset, facts.statistics)
    channels = facts.image_shape[2]
    if data.test.image_shape[2] != channels:
        raise UserError(
            f"the network takes {channels} channels, {data.test.name} has {data.test.image_shape[2]}; set"
            f" config.dataset.channels={channels} where the data set can be read so"
        )
    return facts_lib.with_labels(data.test, facts), data.augmentation
