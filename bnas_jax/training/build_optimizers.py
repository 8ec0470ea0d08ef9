"""Builds optimizers and schedules from the settings of a run."""

from typing import Any

import optax

from bnas_jax.settings import OptimizerSettings, SearchSettings, Settings, TrainSettings
from bnas_jax.training import alpha_optimizers, optimizers, schedules
from bnas_jax.training.schedules import Schedule


def training_optimizer(
    run: TrainSettings, steps_per_epoch: int
) -> optax.GradientTransformation:
    """The optimizer of the final network's weights."""
    settings = run.optimizer
    rate, momentum = training_schedules(
        settings, num_epochs=run.num_epochs, steps_per_epoch=steps_per_epoch
    )
    # The arguments that both optimizers have.
    shared: dict[str, Any] = {
        "weight_decay": settings.weight_decay,
        "decayed": settings.decayed,
        "clip_norm": settings.clip_norm,
        "scheme": run.scheme,
    }

    # Adam or SGD.
    if settings.name == "adam":
        return optimizers.latent_adam(
            rate,
            beta1=settings.beta1,
            beta2=settings.beta2,
            eps=settings.eps,
            **shared,
        )
    return optimizers.latent_sgd(
        rate, momentum=momentum, nesterov=settings.nesterov, **shared
    )


def supernet_optimizer(
    run: SearchSettings, steps_per_epoch: int
) -> optax.GradientTransformation:
    """SGD on the supernet's weights."""
    # The searcher decides which weights decay.
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
    # No scheme applies to alpha: it has no latent weights.
    if run.alphas.optimizer == "sgd":
        return alpha_optimizers.alphas_sgd(
            run.alphas.learning_rate,
            weight_decay=run.alphas.weight_decay,
            clip_norm=run.alphas.clip_norm,
        )
    return alpha_optimizers.alphas_adam(
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
    if settings.schedule == "one_cycle":
        return _one_cycle(settings, steps)

    # The learning rate as a function of the step.
    highest, lowest = settings.learning_rate, settings.min_learning_rate
    if settings.schedule == "cosine_restarts":
        cycle = settings.cycle_epochs * steps_per_epoch
        rate = schedules.cosine_restarts(high=highest, low=lowest, steps=cycle)
    elif settings.schedule == "steps":
        boundaries = [epoch * steps_per_epoch for epoch in settings.decay_epochs]
        rate = schedules.decays(
            high=highest, factor=settings.decay_factor, steps=boundaries
        )
    elif settings.schedule == "linear":
        rate = schedules.linear(high=highest, low=lowest, steps=steps)
    else:
        rate = schedules.cosine(high=highest, low=lowest, steps=steps)

    # The rate may be constant within each epoch.
    if settings.schedule_by == "epoch":
        rate = schedules.by_epoch(
            rate, steps_per_epoch, first_epoch=settings.first_epoch
        )
    return rate, schedules.constant(settings.momentum)


def _one_cycle(settings: OptimizerSettings, steps: int) -> tuple[Schedule, Schedule]:
    """(learning rate, momentum) of one cycle: one rises while the other falls."""
    rate = schedules.one_cycle(
        low=settings.low_learning_rate,
        high=settings.learning_rate,
        last=settings.min_learning_rate,
        steps=steps,
        tail=settings.tail,
    )

    # The momentum is lowest where the learning rate is highest.
    momentum = settings.momentum
    momentum_low = settings.momentum_low
    if momentum_low is None:
        momentum_low = momentum
    momenta = schedules.one_cycle(
        low=momentum,
        high=momentum_low,
        last=momentum,
        steps=steps,
        tail=settings.tail,
    )
    return rate, momenta


def higher_rates(run: Settings) -> list[str]:
    """The rates of a schedule that exceed its `learning_rate`, as `config.KEY=VALUE`.

    `learning_rate` should be the highest rate. For instance, the cycle of a preset is
    turned upside down if only its learning rate is changed to a smaller one.
    """
    if isinstance(run, SearchSettings):
        return _above(run.weights, "config.weights", "min_learning_rate")
    # The rates that a schedule reads besides `learning_rate`.
    lower = {"one_cycle": ("low_learning_rate", "min_learning_rate"), "steps": ()}
    names = lower.get(run.optimizer.schedule, ("min_learning_rate",))
    return _above(run.optimizer, "config.optimizer", *names)


def never_learns(run: Settings) -> str | None:
    """The setting that makes the learning rate 0 in every step, or None.

    A schedule that begins at position 1 has ended before a single epoch.
    """
    settings: Any
    if isinstance(run, SearchSettings):
        name, settings = "weights", run.weights
        # The schedule of a search may restart with each candidate.
        epochs = run.searcher.restart_epochs or run.num_epochs
    else:
        name, settings, epochs = "optimizer", run.optimizer, run.num_epochs
    if settings.first_epoch < epochs or settings.min_learning_rate > 0:
        return None
    return f"config.{name}.first_epoch"


def _above(settings: Any, prefix: str, *names: str) -> list[str]:
    """The named rates that are above `learning_rate`, as `PREFIX.NAME=VALUE`."""
    found = []
    for name in names:
        value = getattr(settings, name)
        if value > settings.learning_rate:
            found.append(f"{prefix}.{name}={value}")
    return found


def learning_rate(run: Settings, steps_per_epoch: int) -> Schedule:
    """The learning rate of the weights as a function of the step.

    run: the settings of a search or a training.
    """
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

    # The schedule restarts with the searcher. The optimizer's own count of steps is
    # reset with its state, but the number of the run's step is not, hence the modulo.
    period = num_epochs * steps_per_epoch
    return lambda step: of_step(step % period)
