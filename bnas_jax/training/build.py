"""From settings to the objects of a run, once: model, optimizers, step, and the batches that the step takes."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import optax

from bnas_jax.core.errors import UserError
from bnas_jax.core.supernet import Supernet
from bnas_jax.data.arrays import Arrays
from bnas_jax.data.encoded import Encoded
from bnas_jax.data.halves import split_half
from bnas_jax.data.load import Dataset
from bnas_jax.data.sources import train_source
from bnas_jax.runtime.devices import Devices
from bnas_jax.search.searcher import TRAIN, VALID
from bnas_jax.settings import OptimizerSettings, SearchSettings, Settings, TrainSettings
from bnas_jax.training import optimizers, schedules
from bnas_jax.training.schedules import Schedule
from bnas_jax.training.steps import SearchStep, TrainStep

# What images are used for; see `image_seed`.
TRAINING, ALPHA, VALIDATION = range(3)


class Program(NamedTuple):
    """A run as the loop, the benchmarks and the plan see it.

    step: a `TrainStep` or `SearchStep`. create: (seed) -> the first state. stages: of a step, (state, feed) -> state each, that
    are compiled one by one. feeds: (number of the step) -> what each stage takes. held_out: what an epoch is evaluated on, None
    in a search that holds nothing out.
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
    """What is random about the images of each use is drawn by a seed of its own."""
    return (run.seed + use) % 2**32


def training(
    run: TrainSettings, data: Dataset, where: Devices, *, model: nn.Module | None = None
) -> Program:
    """The training of a final network. model: by default `network`'s, the one of the settings."""
    if model is None:
        model = network(run, data.train.num_classes, where.axis)
    source = train_source(
        data.train,
        run.batch_size,
        image_seed(run, TRAINING),
        data.augmentation,
        model.arithmetic.dtype,
        where.placement(run.microbatches),
    )
    step = TrainStep(
        network=model,
        optimizer=training_optimizer(run, source.steps_per_epoch),
        label_smoothing=run.optimizer.label_smoothing,
        drop_path=run.optimizer.drop_path,
        auxiliary_weight=run.optimizer.auxiliary_weight,
        num_epochs=run.num_epochs,
        steps_per_epoch=source.steps_per_epoch,
        microbatches=run.microbatches,
        axis=where.axis,
    )

    def train_stage(state, feed):
        return step(state, where.batch(source, feed, run.microbatches))

    return Program(
        model=model,
        step=step,
        create=lambda seed: step.init(seed=seed, image_shape=data.train.image_shape),
        stages=(train_stage,),
        feeds=lambda number: (source.feed(number),),
        steps_per_epoch=source.steps_per_epoch,
        held_out=data.test,
    )


def search(
    run: SearchSettings, data: Dataset, where: Devices, *, model: Supernet | None = None
) -> Program:
    """The search of a cell. A part of the training set is for the weights, the rest held out; the test set stays unseen.

    model: by default `supernet`'s, the one of the settings.
    """
    if model is None:
        model = supernet(run, data.train.num_classes, where.axis)
    searcher = run.searcher.for_supernet(model, data.train.image_shape)
    parts = {TRAIN: data.train}
    if searcher.train_share < 1:
        divided = split_half(
            data.train, run.seed, run.dataset.search_split, share=searcher.train_share
        )
        parts = dict(zip((TRAIN, VALID), divided, strict=True))

    def source_of(name: str, use: int, *, fresh: bool):
        if name not in parts:
            raise UserError(
                "a stage of the searcher takes held-out images: its train_share must be below 1"
            )
        return train_source(
            parts[name],
            run.batch_size,
            image_seed(run, use),
            data.augmentation,
            model.arithmetic.dtype,
            where.placement(run.microbatches),
            fresh=fresh,
        )

    sources = {TRAIN: source_of(TRAIN, TRAINING, fresh=False)}
    # Candidates are scored on held-out batches, too.
    if not searcher.has_alphas or any(VALID in stage.batches for stage in searcher.stages):
        sources[VALID] = source_of(VALID, ALPHA, fresh=run.alpha_batches == "fresh")
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

    def stage_of(index: int) -> Callable:
        def search_stage(state, feeds):
            batches = {
                name: where.batch(sources[name], feed, run.microbatches)
                for name, feed in feeds.items()
            }
            return step.stage(index, state, batches)

        return search_stage

    stages = step.searcher.stages
    taken = {name for stage in stages for name in stage.batches}

    def feeds(number: int) -> tuple:
        of_step = {name: sources[name].feed(number) for name in sorted(taken)}
        return tuple({name: of_step[name] for name in stage.batches} for stage in stages)

    return Program(
        model=model,
        step=step,
        create=lambda seed: step.init(seed=seed, image_shape=data.train.image_shape),
        stages=tuple(stage_of(index) for index in range(len(stages))),
        feeds=feeds,
        steps_per_epoch=steps_per_epoch,
        held_out=parts.get(VALID),
    )


def training_optimizer(run: TrainSettings, steps_per_epoch: int) -> optax.GradientTransformation:
    """The optimizer of the final network's weights."""
    settings = run.optimizer
    rate, momentum = training_schedules(settings, run.num_epochs, steps_per_epoch)
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
    """Adam on alpha."""
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
    """(learning rate, momentum) of the final training, by step."""
    steps = num_epochs * steps_per_epoch
    top, bottom, momentum = settings.learning_rate, settings.min_learning_rate, settings.momentum
    if settings.schedule == "one_cycle":
        rate = schedules.one_cycle(settings.low_learning_rate, top, bottom, steps, settings.tail)
        low = momentum if settings.momentum_low is None else settings.momentum_low
        return rate, schedules.one_cycle(momentum, low, momentum, steps, settings.tail)
    if settings.schedule == "cosine_restarts":
        rate = schedules.cosine_restarts(top, bottom, settings.cycle_epochs * steps_per_epoch)
    elif settings.schedule == "steps":
        at = [epoch * steps_per_epoch for epoch in settings.decay_epochs]
        rate = schedules.decays(top, settings.decay_factor, at)
    elif settings.schedule == "linear":
        rate = schedules.linear(top, bottom, steps)
    else:
        rate = schedules.cosine(top, bottom, steps)
    if settings.schedule_by == "epoch":
        rate = schedules.by_epoch(rate, steps_per_epoch, settings.first_epoch)
    return rate, schedules.constant(momentum)


def learning_rate(run: Settings, steps_per_epoch: int) -> Schedule:
    """The learning rate of the weights of a search or a training, by step."""
    if isinstance(run, TrainSettings):
        return training_schedules(run.optimizer, run.num_epochs, steps_per_epoch)[0]
    weights, steps = run.weights, run.num_epochs * steps_per_epoch
    rate = schedules.cosine(weights.learning_rate, weights.min_learning_rate, steps)
    return schedules.by_epoch(rate, steps_per_epoch, weights.first_epoch)
