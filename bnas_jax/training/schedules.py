"""Learning rates and momenta as functions of the step (section 5.1; methods.md D)."""

from collections.abc import Callable

import jax.numpy as jnp

from bnas_jax.settings import OptimizerSettings, SearchSettings, Settings, WeightSettings

Schedule = Callable


def one_cycle(low: float, high: float, last: float, steps: int, tail: float) -> Schedule:
    """low -> high -> low, linearly, over 1 - tail of the steps, then low -> last (arXiv 1708.07120)."""
    cycle = max(int(steps * (1 - tail)), 1)
    half = cycle / 2
    rest = max(steps - cycle, 1)

    def rate(step):
        step = jnp.asarray(step, jnp.float32)
        peak = 1 - jnp.abs(step / half - 1)
        falling = jnp.clip((step - cycle) / rest, 0, 1)
        return jnp.where(step <= cycle, low + (high - low) * peak, low + (last - low) * falling)

    return rate


def cosine(high: float, low: float, steps: float) -> Schedule:
    """Half a cosine from high to low over `steps`; started anew whenever it has ended (SGDR, arXiv 1608.03983)."""

    def rate(step):
        position = jnp.asarray(step, jnp.float32) % steps / steps
        return low + (high - low) * (1 + jnp.cos(jnp.pi * position)) / 2

    return rate


def constant(value: float) -> Schedule:
    return lambda step: jnp.asarray(value, jnp.float32)


def final_schedules(settings: OptimizerSettings, num_epochs: int, steps_per_epoch: int) -> tuple[Schedule, Schedule]:
    """(learning rate, momentum) of the final training, by step."""
    steps = num_epochs * steps_per_epoch
    top, bottom = settings.learning_rate, settings.min_learning_rate
    if settings.schedule == "one_cycle":
        rate = one_cycle(settings.low_learning_rate, top, bottom, steps, settings.tail)
        high = settings.momentum
        low = high if settings.momentum_low is None else settings.momentum_low
        return rate, one_cycle(high, low, high, steps, settings.tail)
    cycle = settings.cycle_epochs if settings.schedule == "cosine_restarts" else num_epochs
    return cosine(top, bottom, cycle * steps_per_epoch), constant(settings.momentum)


def search_schedule(settings: WeightSettings, num_epochs: int, steps_per_epoch: int) -> Schedule:
    """Learning rate of the supernet's weights: half a cosine over the search, constant within an epoch."""
    low, high = settings.min_learning_rate, settings.learning_rate

    def rate(step):
        epoch = jnp.asarray(step // steps_per_epoch + settings.first_epoch, jnp.float32)
        return low + (high - low) * (1 + jnp.cos(jnp.pi * epoch / num_epochs)) / 2

    return rate


def learning_rate(run: Settings, steps_per_epoch: int) -> Schedule:
    """Learning rate of the weights of a search or a training, by step."""
    if isinstance(run, SearchSettings):
        return search_schedule(run.weights, run.num_epochs, steps_per_epoch)
    return final_schedules(run.optimizer, run.num_epochs, steps_per_epoch)[0]
