"""Learning rates and momenta as functions of the step (section 5.1; methods.md D)."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import optax

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
    """Half a cosine from high to low over `steps`, then low."""

    def rate(step):
        position = jnp.minimum(jnp.asarray(step, jnp.float32) / steps, 1)
        return low + (high - low) * (1 + jnp.cos(jnp.pi * position)) / 2

    return rate


def cosine_restarts(high: float, low: float, steps: float) -> Schedule:
    """The same, started anew whenever it has ended (SGDR, arXiv 1608.03983)."""
    once = cosine(high, low, steps)
    return lambda step: once(jnp.asarray(step, jnp.float32) % steps)


def linear(high: float, low: float, steps: int) -> Schedule:
    """A line from high to low over `steps`, then low."""
    return optax.linear_schedule(high, low, steps)


def decays(high: float, factor: float, steps: Sequence[int]) -> Schedule:
    """high, multiplied by `factor` from each of `steps` on."""
    return optax.piecewise_constant_schedule(high, dict.fromkeys(steps, factor))


def constant(value: float) -> Schedule:
    """The same at every step."""
    return lambda step: jnp.asarray(value, jnp.float32)


def by_epoch(schedule: Schedule, steps_per_epoch: int, first_epoch: int = 0) -> Schedule:
    """A schedule of steps, constant within each epoch.

    first_epoch: where on the schedule the first epoch lies: 0, or 1 where a code steps its scheduler before each epoch, as the
    search's, Bi-Real's and ReActNet's do.
    """
    return lambda step: schedule((step // steps_per_epoch + first_epoch) * steps_per_epoch)
