"""From settings to the objects of a run, once: model, optimizers, step, and the batches that the step takes."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import flax.linen as nn
import optax

from bnas_jax.core.errors import UserError
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
from bnas_jax.settings import OptimizerSettings, SearchSettings, Settings, TrainSettings
from bnas_jax.training import optimizers, schedules
from bnas_jax.training.schedules import Schedule
from bnas_jax.training.search_step import SearchStep
from bnas_jax.training.train_step import TrainStep

if TYPE_CHECKING:
    from bnas_jax.training.teacher import Teacher

# The streams of images of a run, each with random numbers of its own; see `image_seed`.
TRAINING, ALPHA, VALIDATION = range(3)


class Program(NamedTuple):
    """A run as the loop, the benchmarks and the plan see it.

    step: a `TrainStep` or `SearchStep`. create: (seed) -> the first state. stages: the parts of a step, (state, feed) -> state
    each, compiled one by one. feeds: (number of the step) -> a tuple with the feed of each stage. held_out: the examples that
    an epoch is evaluated on, None in a search that holds nothing out.
    """

    model: nn.Module
    step: TrainStep | SearchStep
    create: Callable[[Any], Any]
    stages: tuple[Callable, ...]
    feeds: Callable[[int], tuple]
    steps_per_epoch: int
    held_out: Arrays | Encoded | None


def network(run: TrainSettings, num_classes: int, axis: str | None = None) -> nn.Module:
    """The network of a training. axis: the mapped axis of its devices."""
    return run.network.build(
        num_classes=num_classes, scheme=run.scheme, arithmetic=run.arithmetic(axis)
    )


def supernet(run: SearchSettings, num_classes: int, axis: str | None = None) -> Supernet:
    """The network of a search. axis: the mapped axis of its devices."""
    return run.network.build(
        num_classes=num_classes, scheme=run.scheme, arithmetic=run.arithmetic(axis)
    )


def image_seed(run: Settings, use: int) -> int:
    """The seed of a stream of images. use: `TRAINING`, `ALPHA` or `VALIDATION`.

    Each use has another seed, so that the batches for alpha are not augmented like those for the weights.
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
    """The training of a final network. model: by default `network`'s, the one of the settings. teacher: see `teacher.load`."""
    if model is None:
        model = network(run, num_classes=data.train.num_classes, axis=where.axis)

    source = train_source(
        data.train,
        batch_size=run.batch_size,
        seed=image_seed(run, TRAINING),
        augmentation=data.augmentation,
        dtype=model.arithmetic.dtype,
        placement=where.placement(run.microbatches),
    )
    step = TrainStep(
        network=model,
        optimizer=training_optimizer(run, source.steps_per_epoch),
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

    # The teacher's variables are part of each feed: constants of the step would become part of the program.
    of_teacher = {"teacher": teacher.variables} if teacher else {}

    # Batches are made inside the compiled step: from a feed, which is small, by the data on the device.
    def train_stage(state, feed):
        batch = where.batch(source, feed, microbatches=run.microbatches)
        if teacher is not None:
            batch = teacher.add_targets(batch, feed["teacher"], parts=run.microbatches)
        return step(state, batch)

    return Program(
        model=model,
        step=step,
        create=lambda seed: step.init(seed=seed, image_shape=data.train.image_shape),
        stages=(train_stage,),
        feeds=lambda number: ({**source.feed(number), **of_teacher},),
        steps_per_epoch=source.steps_per_epoch,
        held_out=data.test,
    )


def search(
    run: SearchSettings, data: Dataset, where: Devices, *, model: Supernet | None = None
) -> Program:
    """The search of a cell. A part of the training set is for the weights, the rest held out; the test set stays unseen.

    model: by default `supernet`'s, the one of the settings.
    Raises `UserError` for a searcher with a stage on held-out images that holds none out.
    """
    if model is None:
        model = supernet(run, num_classes=data.train.num_classes, axis=where.axis)
    searcher = run.searcher.for_supernet(model, data.train.image_shape)

    sources, held_out = _search_sources(
        run, data, where, searcher=searcher, dtype=model.arithmetic.dtype
    )

    # An epoch is one pass over the images for the weights.
    steps_per_epoch = sources[TRAIN].steps_per_epoch
    step = SearchStep(
        supernet=model,
        searcher=searcher,
        weights=supernet_optimizer(run, steps_per_epoch),
        alphas=alphas_optimizer(run),
        num_epochs=run.num_epochs,
        steps_per_epoch=steps_per_epoch,
        microbatches=run.microbatches,
        axis=where.axis,
    )
    stages = step.searcher.stages

    # One function a stage, each compiled by itself: XLA's work grows faster than the size of a program.
    def stage_of(index: int) -> Callable:
        def search_stage(state, feeds):
            batches = {}
            for name, feed in feeds.items():
                batches[name] = where.batch(sources[name], feed, microbatches=run.microbatches)
            return step.stage(index, state, batches)

        return search_stage

    # Stages that take the same images get the same batch, whose feed is made once.
    used = sorted({name for stage in stages for name in stage.batches})

    def feeds(number: int) -> tuple:
        of_step = {name: sources[name].feed(number) for name in used}
        of_stages = []
        for stage in stages:
            of_stages.append({name: of_step[name] for name in stage.batches})
        return tuple(of_stages)

    # `held_out` is what epochs are evaluated on: the test set is not touched.
    return Program(
        model=model,
        step=step,
        create=lambda seed: step.init(seed=seed, image_shape=data.train.image_shape),
        stages=tuple(stage_of(index) for index in range(len(stages))),
        feeds=feeds,
        steps_per_epoch=steps_per_epoch,
        held_out=held_out,
    )


def _search_sources(
    run: SearchSettings, data: Dataset, where: Devices, *, searcher: Searcher, dtype: Any
) -> tuple[dict[str, TrainSource | StreamTrainSource], Arrays | Encoded | None]:
    """(a source of batches for each part of the training set that a step takes images of, the images held out, if any)."""
    # Images for the weights, and images held out for alpha.
    parts = {TRAIN: data.train}
    if searcher.train_share < 1:
        parts[TRAIN], parts[VALID] = split_half(
            data.train, run.seed, run.dataset.search_split, share=searcher.train_share
        )

    def source_of(name: str, use: int, *, fresh: bool):
        if name not in parts:
            # Only a user's searcher can be so: those of the package hold images out where a stage takes some.
            raise UserError(
                "a stage of the searcher takes held-out images: its train_share must be below 1"
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
    # A searcher without alphas scores its candidates on held-out images at the end of the search.
    takes_valid = any(VALID in stage.batches for stage in searcher.stages)
    if takes_valid or not searcher.has_alphas:
        sources[VALID] = source_of(VALID, ALPHA, fresh=run.alpha_batches == "fresh")
    return sources, parts.get(VALID)


def training_optimizer(run: TrainSettings, steps_per_epoch: int) -> optax.GradientTransformation:
    """The optimizer of the final network's weights."""
    settings = run.optimizer
    rate, momentum = training_schedules(
        settings, num_epochs=run.num_epochs, steps_per_epoch=steps_per_epoch
    )
    # Of both optimizers alike.
    shared: dict[str, Any] = {
        "weight_decay": settings.weight_decay,
        "decayed": settings.decayed,
        "clip_norm": settings.clip_norm,
        "scheme": run.scheme,
    }
    if settings.name == "adam":
        return optimizers.latent_adam(
            rate,
            beta1=settings.beta1,
            beta2=settings.beta2,
            eps=settings.eps,
            **shared,
        )
    return optimizers.latent_sgd(rate, momentum=momentum, nesterov=settings.nesterov, **shared)


def supernet_optimizer(run: SearchSettings, steps_per_epoch: int) -> optax.GradientTransformation:
    """SGD on the supernet's weights."""
    # The convention or the searcher decides which weights decay.
    return optimizers.latent_sgd(
        learning_rate(run, steps_per_epoch),
        momentum=run.weights.momentum,
        weight_decay=run.weights.weight_decay,
        clip_norm=run.weights.clip_norm,
        nesterov=run.weights.nesterov,
        decayed=run.searcher.decayed,
        scheme=run.scheme,
    )


def alphas_optimizer(run: SearchSettings) -> optax.GradientTransformation:
    """Adam or gradient descent on alpha."""
    # Alpha is no latent weight, so that no scheme treats it.
    if run.alphas.optimizer == "sgd":
        return optimizers.alphas_sgd(
            run.alphas.learning_rate,
            weight_decay=run.alphas.weight_decay,
            clip_norm=run.alphas.clip_norm,
        )
    return optimizers.alphas_adam(
        run.alphas.learning_rate,
        beta1=run.alphas.beta1,
        beta2=run.alphas.beta2,
        weight_decay=run.alphas.weight_decay,
        clip_norm=run.alphas.clip_norm,
    )


def training_schedules(
    settings: OptimizerSettings, num_epochs: int, steps_per_epoch: int
) -> tuple[Schedule, Schedule]:
    """(learning rate, momentum) of the final training, as functions of the step."""
    steps = num_epochs * steps_per_epoch
    highest, lowest = settings.learning_rate, settings.min_learning_rate
    momentum = settings.momentum

    # One cycle moves the momentum, too, against the learning rate.
    if settings.schedule == "one_cycle":
        rate = schedules.one_cycle(
            low=settings.low_learning_rate,
            high=highest,
            last=lowest,
            steps=steps,
            tail=settings.tail,
        )
        momentum_low = settings.momentum_low
        if momentum_low is None:
            momentum_low = momentum
        momenta = schedules.one_cycle(
            low=momentum, high=momentum_low, last=momentum, steps=steps, tail=settings.tail
        )
        return rate, momenta

    if settings.schedule == "cosine_restarts":
        cycle = settings.cycle_epochs * steps_per_epoch
        rate = schedules.cosine_restarts(high=highest, low=lowest, steps=cycle)
    elif settings.schedule == "steps":
        boundaries = [epoch * steps_per_epoch for epoch in settings.decay_epochs]
        rate = schedules.decays(high=highest, factor=settings.decay_factor, steps=boundaries)
    elif settings.schedule == "linear":
        rate = schedules.linear(high=highest, low=lowest, steps=steps)
    else:
        rate = schedules.cosine(high=highest, low=lowest, steps=steps)

    if settings.schedule_by == "epoch":
        rate = schedules.by_epoch(rate, steps_per_epoch, first_epoch=settings.first_epoch)
    return rate, schedules.constant(momentum)


def learning_rate(run: Settings, steps_per_epoch: int) -> Schedule:
    """The learning rate of the weights of a search or a training, as a function of the step."""
    if isinstance(run, TrainSettings):
        rate, _ = training_schedules(
            run.optimizer, num_epochs=run.num_epochs, steps_per_epoch=steps_per_epoch
        )
        return rate

    # A search anneals its rate by half a cosine, constant within each epoch.
    weights = run.weights
    num_epochs = run.searcher.restart_epochs or run.num_epochs
    rate = schedules.cosine(
        high=weights.learning_rate,
        low=weights.min_learning_rate,
        steps=num_epochs * steps_per_epoch,
    )
    of_step = schedules.by_epoch(rate, steps_per_epoch, first_epoch=weights.first_epoch)
    if run.searcher.restart_epochs is None:
        return of_step
    # A restart begins the schedule anew. The optimizer's count of steps is reset with its state, but the run's steps, by
    # which rates are looked up as well, go on.
    period = num_epochs * steps_per_epoch
    return lambda step: of_step(step % period)
