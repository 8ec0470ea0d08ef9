"""Builds the objects of a run from its settings, as a `Program`.

These are the model, the optimizers, the step and the sources of batches. `training` and
`search` build them once, at the start of a run.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.linen as nn

from bnas_jax.core.errors import UserError
from bnas_jax.core.losses import LOSSES
from bnas_jax.core.supernet import Supernet
from bnas_jax.data.arrays import Arrays
from bnas_jax.data.halves import split_half
from bnas_jax.data.load import Dataset
from bnas_jax.data.pipeline import TrainSource
from bnas_jax.data.readers.encoded import Encoded
from bnas_jax.data.sources import train_source
from bnas_jax.data.stream import StreamTrainSource
from bnas_jax.runtime.devices import Devices
from bnas_jax.search.searcher import TRAIN, VALID, Searcher
from bnas_jax.settings import SearchSettings, Settings, TrainSettings
from bnas_jax.training import build_optimizers
from bnas_jax.training.search_step import SearchStep
from bnas_jax.training.train_step import TrainStep

if TYPE_CHECKING:
    from bnas_jax.training.teacher import Teacher

# The streams of images of a run: for the weights, for alpha, and for the validation of
# an epoch. Each has its own random numbers, see `image_seed`.
TRAINING, ALPHA, VALIDATION = range(3)


class Program(NamedTuple):
    """The compiled parts of a run, for the loop, the benchmarks and `plan`.

    A stage makes its batch inside the compiled program, from a feed: the arrays that
    `source.feed` returns, such as the images on the device, their order, and the
    position of the step in that order.

    model: the network or the supernet.
    step: a `TrainStep` or `SearchStep`.
    create: (seed) -> the first state.
    stages: the parts of a step, (state, feed) -> state each, compiled separately.
    feeds: (number of the step) -> a tuple with the feed of each stage.
    steps_per_epoch: the number of steps in an epoch.
    held_out: the examples that each epoch is evaluated on; None in a search without
        validation data.
    """

    model: nn.Module
    step: TrainStep | SearchStep
    create: Callable[[Any], Any]
    stages: tuple[Callable, ...]
    feeds: Callable[[int], tuple]
    steps_per_epoch: int
    held_out: Arrays | Encoded | None


def network(run: TrainSettings, num_classes: int, axis: str | None = None) -> nn.Module:
    """The final network that the settings describe.

    axis: the mapped axis of the devices; None for one device.
    """
    return run.network.build(
        num_classes=num_classes, scheme=run.scheme, arithmetic=run.arithmetic(axis)
    )


def supernet(
    run: SearchSettings, num_classes: int, axis: str | None = None
) -> Supernet:
    """The supernet that the settings describe.

    axis: the mapped axis of the devices; None for one device.
    """
    return run.network.build(
        num_classes=num_classes, scheme=run.scheme, arithmetic=run.arithmetic(axis)
    )


def image_seed(run: Settings, use: int) -> int:
    """The seed for the order and the augmentation of a stream of images.

    Each use has a seed of its own, so that the batches for alpha and for the weights
    are augmented independently.

    use: `TRAINING`, `ALPHA` or `VALIDATION`.
    """
    return (run.seed + use) % 2**32


def training(
    run: TrainSettings,
    data: Dataset,
    where: Devices,
    *,
    model: nn.Module | None = None,
    teacher: "Teacher | None" = None,
) -> Program:
    """The program that trains a final network.

    model: None builds the network of the settings.
    teacher: the network to learn from, see `teacher.load`.
    """
    # The network.
    if model is None:
        model = network(run, num_classes=data.train.num_classes, axis=where.axis)

    # The training images in augmented batches.
    source = train_source(
        data.train,
        batch_size=run.batch_size,
        seed=image_seed(run, TRAINING),
        augmentation=data.augmentation,
        dtype=model.arithmetic.dtype,
        placement=where.placement(run.microbatches),
    )

    # The optimizer and the step that it is part of.
    optimizer = build_optimizers.training_optimizer(run, source.steps_per_epoch)
    step = TrainStep(
        network=model,
        optimizer=optimizer,
        loss=LOSSES[run.optimizer.loss],
        label_smoothing=run.optimizer.label_smoothing,
        soft_share=run.teacher.share,
        temperature=run.teacher.temperature,
        drop_path=run.optimizer.drop_path,
        auxiliary_weight=run.optimizer.auxiliary_weight,
        num_epochs=run.num_epochs,
        steps_per_epoch=source.steps_per_epoch,
        microbatches=run.microbatches,
        axis=where.axis,
    )

    def create(seed):
        return step.init(
            seed=seed,
            image_shape=data.train.image_shape,
            first_weights=run.first_weights,
        )

    # What is compiled.
    train_stage = _train_stage(step, where=where, source=source, teacher=teacher)

    # The teacher's variables are part of each feed: as constants they would be stored
    # in the compiled program.
    of_teacher: dict[str, Any] = {}
    if teacher is not None:
        of_teacher = {"teacher": teacher.variables}

    return Program(
        model=model,
        step=step,
        create=create,
        stages=(train_stage,),
        feeds=lambda number: ({**source.feed(number), **of_teacher},),
        steps_per_epoch=source.steps_per_epoch,
        held_out=data.test,
    )


def _train_stage(
    step: TrainStep, *, where: Devices, source: Any, teacher: "Teacher | None"
) -> Callable:
    """The training step as a function: (state, feed) -> the next state."""
    parts = step.microbatches

    # Make the batch from its feed, add the teacher's probabilities, and take the step.
    def train_stage(state, feed):
        batch = where.batch(source, feed, microbatches=parts)
        if teacher is not None:
            batch = teacher.add_targets(batch, feed["teacher"], parts=parts)
        return step(state, batch)

    return train_stage


def search(
    run: SearchSettings, data: Dataset, where: Devices, *, model: Supernet | None = None
) -> Program:
    """The program that searches a cell.

    The weights are trained on a share of the training set; the rest is held out for
    alpha or for validation. The test set is not used.

    model: None builds the supernet of the settings.

    Raises `UserError` for a searcher with a stage on held-out images whose
    `train_share` is 1.
    """
    # The supernet and the searcher.
    if model is None:
        model = supernet(run, num_classes=data.train.num_classes, axis=where.axis)
    searcher = run.searcher.for_supernet(model, data.train.image_shape)

    # The sources of augmented batches. An epoch is one pass over the images for the
    # weights.
    sources, held_out = _search_sources(
        run, data, where, searcher=searcher, dtype=model.arithmetic.dtype
    )
    steps_per_epoch = sources[TRAIN].steps_per_epoch

    # The two optimizers and the step that they are part of.
    step = SearchStep(
        supernet=model,
        searcher=searcher,
        weights=build_optimizers.supernet_optimizer(run, steps_per_epoch),
        alphas=build_optimizers.alphas_optimizer(run),
        num_epochs=run.num_epochs,
        steps_per_epoch=steps_per_epoch,
        microbatches=run.microbatches,
        axis=where.axis,
    )

    # One function for each stage, compiled separately, because XLA's compile time grows
    # faster than the size of a program.
    stages = []
    for index in range(len(searcher.stages)):
        stages.append(_search_stage(step, index, where=where, sources=sources))

    return Program(
        model=model,
        step=step,
        create=lambda seed: step.init(seed=seed, image_shape=data.train.image_shape),
        stages=tuple(stages),
        feeds=lambda number: _search_feeds(step, sources, number),
        steps_per_epoch=steps_per_epoch,
        held_out=held_out,
    )


def _search_stage(
    step: SearchStep, index: int, *, where: Devices, sources: Mapping
) -> Callable:
    """A stage of the step as a function: (state, feeds) -> the state after it.

    The feeds are those of the batches that the stage takes: {"train": feed, ...}.

    index: the number of the stage.
    """

    def search_stage(state, feeds):
        batches = {}
        for name, feed in feeds.items():
            batches[name] = where.batch(
                sources[name], feed, microbatches=step.microbatches
            )
        return step.stage(index, state, batches)

    return search_stage


def _search_feeds(
    step: SearchStep, sources: Mapping, number: int
) -> tuple[dict[str, Any], ...]:
    """The feeds of a step: for each stage, those of the batches that it takes.

    number: of the step.
    """
    stages = step.searcher.stages
    # Stages that take images of the same name get the same batch. Its feed is made
    # once.
    used = sorted({name for stage in stages for name in stage.batches})
    of_step = {name: sources[name].feed(number) for name in used}

    of_stages = []
    for stage in stages:
        of_stages.append({name: of_step[name] for name in stage.batches})
    return tuple(of_stages)


def _search_sources(
    run: SearchSettings,
    data: Dataset,
    where: Devices,
    *,
    searcher: Searcher,
    dtype: Any,
) -> tuple[dict[str, TrainSource | StreamTrainSource], Arrays | Encoded | None]:
    """({"train": source, perhaps "valid": source}, the held-out images or None).

    A source gives the batches of one part of the training set. "valid" is left out if
    the search takes no batches of held-out images.
    """
    # The parts: images for the weights, and images held out for alpha.
    parts = {TRAIN: data.train}
    if searcher.train_share < 1:
        parts[TRAIN], parts[VALID] = split_half(
            data.train, run.seed, run.dataset.search_split, share=searcher.train_share
        )

    def source_of(name: str, use: int, *, fresh: bool):
        if name not in parts:
            # Only a user's searcher can do this: the searchers of the package hold
            # images out if one of their stages takes them.
            raise UserError(
                "a stage of the searcher takes held-out images: its train_share must "
                "be below 1"
            )
        return train_source(
            parts[name],
            batch_size=run.batch_size,
            seed=image_seed(run, use),
            augmentation=data.augmentation,
            dtype=dtype,
            placement=where.placement(run.microbatches),
            fresh=fresh,
        )

    sources = {TRAIN: source_of(TRAIN, TRAINING, fresh=False)}
    # Held-out images are for the alpha step. A searcher without alphas scores its
    # candidates on them at the end of the search.
    takes_valid = any(VALID in stage.batches for stage in searcher.stages)
    if takes_valid or not searcher.has_alphas:
        fresh = run.alpha_batches == "fresh"
        sources[VALID] = source_of(VALID, ALPHA, fresh=fresh)
    return sources, parts.get(VALID)
