"""Accuracy of a network on a data set, every example counted exactly once; and of a work directory's checkpoint."""

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
from bnas_jax.data.encoded import Encoded, ReadOptions
from bnas_jax.data.facts import Facts
from bnas_jax.data.load import Dataset, Statistics, TestSet
from bnas_jax.data.sources import eval_source
from bnas_jax.runtime import devices
from bnas_jax.runtime.compiling import Call
from bnas_jax.runtime.devices import Devices
from bnas_jax.search import Searcher
from bnas_jax.settings import DatasetSettings, RunSettings, Settings, TrainSettings
from bnas_jax.training import build
from bnas_jax.training.checkpoints import Checkpoints
from bnas_jax.training.state import initial_variables
from bnas_jax.training.steps import EvaluationStep
from bnas_jax.training.workdir import WorkDir


def load_data(dataset: DatasetSettings) -> Dataset:
    """The data of a run, augmented and normalised as its settings say."""
    data = load.load(dataset.name, dataset.path, read_options(dataset), _statistics(dataset))
    return data._replace(augmentation=_augmentation(data.augmentation, dataset))


def data_of_parts(dataset: DatasetSettings, parts: dict[str, Encoded]) -> Dataset:
    """As `load_data`, of a data set with these parts, "train" and "test", in place of its files."""
    options = load.with_defaults(dataset.name, read_options(dataset))
    data = load.from_parts(dataset.name, parts, options, _statistics(dataset))
    return data._replace(augmentation=_augmentation(data.augmentation, dataset))


def load_test_data(dataset: DatasetSettings, statistics: Statistics | None) -> Dataset | TestSet:
    """What evaluation needs of the data. statistics: see `data.load.load_test`; those of the settings go before."""
    statistics = _statistics(dataset) or statistics
    data = load.load_test(dataset.name, dataset.path, read_options(dataset), statistics)
    return data._replace(augmentation=_augmentation(data.augmentation, dataset))


def _statistics(dataset: DatasetSettings) -> Statistics | None:
    """(mean, std) by hand."""
    if dataset.mean is None or dataset.std is None:
        return None
    return dataset.mean, dataset.std


def _augmentation(augmentation: Augmentation, dataset: DatasetSettings) -> Augmentation:
    given = {
        name: getattr(dataset, name) for name in ("pad", "flip", "min_area", "jitter", "cutout")
    }
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return dataclasses.replace(augmentation, **changes)


def load_run_data(
    run: Settings, workdir: WorkDir, *, change: bool = False
) -> tuple[Dataset, Facts]:
    """The data of a run with what it learned from them: now where the run begins, else when it began.

    `UserError` where the work directory belongs to a run with other settings or other data. change: see `WorkDir.open`.
    """
    data = load_data(run.dataset)
    test = data.test if isinstance(run, TrainSettings) else None  # a search does not look at it
    facts = workdir.check(run, facts_lib.learn(data, test), change=change)
    return facts_lib.with_statistics(data, facts), facts


def read_options(dataset: DatasetSettings) -> ReadOptions:
    """How a data set's settings say it is read."""
    shared = {f.name for f in dataclasses.fields(ReadOptions)} & {
        f.name for f in dataclasses.fields(dataset)
    }
    return ReadOptions(
        skip_bad=dataset.bad_images == "skip", **{name: getattr(dataset, name) for name in shared}
    )


class Evaluator:
    """Evaluates on one data set; the step is compiled once.

    model: a network, or a supernet, for which the searcher says the mixture. augment_seed: of images that are augmented as
    in training, else None. batch_size: None is that of the settings. batch_statistics: see `EvaluationStep`.
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
        batch_size = batch_size or min(run.eval_batch_size, len(examples))
        batch_size = -(-batch_size // where.count) * where.count  # padding has weight 0
        dtype = model.arithmetic.dtype
        placement = where.placement()
        self._source = eval_source(
            examples, batch_size, augmentation, dtype, placement, augment_seed=augment_seed
        )
        step = EvaluationStep(
            model, searcher=searcher, axis=where.axis, batch_statistics=batch_statistics
        )

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

        variables: {"params", "batch_stats"}, and "alphas" of a supernet. epoch: whose augmentation it is, where there is one.
        between_batches: called there; what it raises ends the evaluation. batches: the numbers of those that are evaluated,
        None is all.
        """
        sums: list[Any] = []
        for batch in batches or range(len(self._source)):
            if sums:
                jax.block_until_ready(
                    sums[-2:-1]
                )  # no more than two are under way, so that it is called in time
                between_batches()
            program, arguments = self.call(variables, batch=batch, epoch=epoch)
            sums.append(program(*arguments))
        total = jax.tree.map(lambda *parts: sum(float(p) for p in parts), *sums)
        count = total.examples
        return {
            "top1": 100 * total.top1 / count,
            "top5": 100 * total.top5 / count,
            "loss": total.loss / count,
            "num_examples": int(count),
        }


def evaluate(workdir: WorkDir, run: Settings, which: str = "last") -> dict:
    """Restores a checkpoint of `train` or `import` and evaluates it on the test split.

    run: the work directory's settings, perhaps with another data set; its pixels are normalised and its labels numbered as
    those of the run's data, see `data.facts`. which: `last`, `best` or a step.
    """
    if not isinstance(run, TrainSettings):
        raise UserError(
            f"{workdir.path} holds a search; evaluate takes the work directory of a training"
        )
    where = devices.configure(run)
    facts = facts_lib.from_dict(workdir.facts())
    data = load_test_data(run.dataset, facts.statistics)
    channels = facts.image_shape[2]
    if data.test.image_shape[2] != channels:
        raise UserError(
            f"the network takes {channels} channels, {data.test.name} has {data.test.image_shape[2]}; set"
            f" config.dataset.channels={channels} where the data set can be read so"
        )
    test = facts_lib.with_labels(data.test, facts)
    model = build.network(run, facts.num_classes)
    shapes = jax.eval_shape(lambda: initial_variables(model, test.image_shape, 0))
    if not workdir.checkpoints.is_dir():
        raise UserError(f"no checkpoint in {workdir.path}; run train with this --workdir first")
    checkpoints = Checkpoints(workdir.checkpoints, where=where)
    with contextlib.closing(checkpoints):
        step, variables = checkpoints.restore_variables(shapes, which)
    evaluator = Evaluator(model, test, data.augmentation, run, where=where)
    result = evaluator({"params": variables["params"], "batch_stats": variables["batch_stats"]})
    return {**result, "step": step}
