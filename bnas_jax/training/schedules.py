"""Learning rates and momenta as functions of the step.

See section 5.1 of the paper and docs/recipes.md.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import optax

# (step) -> a float32 scalar. The step is a number, or an array inside a compiled step.
Schedule = Callable


def one_cycle(
    low: float, high: float, last: float, steps: int, tail: float
) -> Schedule:
    """One cycle low -> high -> low, then low -> last, all linear (arXiv 1708.07120).

    steps: the number of steps of the whole training.
    tail: the share of the steps after the cycle.
    """
    cycle = max(int(steps * (1 - tail)), 1)  # steps of the cycle
    half = cycle / 2
    rest = max(steps - cycle, 1)  # steps of the tail

    def rate(step):
        step = jnp.asarray(step, jnp.float32)
        # 0 at both ends of the cycle, 1 in its middle.
        peak = 1 - jnp.abs(step / half - 1)
        # From 0 to 1 over the tail.
        falling = jnp.clip((step - cycle) / rest, 0, 1)
        return jnp.where(
            step <= cycle,
            low + (high - low) * peak,
            low + (last - low) * falling,
        )

    return rate


def cosine(high: float, low: float, steps: float) -> Schedule:
    """Half a cosine from high to low over `steps`, then low."""

    def rate(step):
        # From 0 to 1 over the steps, and 1 from there on.
        position = jnp.minimum(jnp.asarray(step, jnp.float32) / steps, 1)
        wave = 1 + jnp.cos(jnp.pi * position)  # from 2 to 0
        return low + (high - low) * wave / 2

    return rate


def cosine_restarts(high: float, low: float, steps: float) -> Schedule:
    """`cosine`, repeated with a period of `steps` (SGDR, arXiv 1608.03983)."""
    once = cosine(high=high, low=low, steps=steps)
    return lambda step: once(jnp.asarray(step, jnp.float32) % steps)


def linear(high: float, low: float, steps: int) -> Schedule:
    """A line from high to low over `steps`, then low."""
    return optax.linear_schedule(init_value=high, end_value=low, transition_steps=steps)


def decays(high: float, factor: float, steps: Sequence[int]) -> Schedule:
    """high, multiplied by `factor` at each of `steps`, from that step on."""
    return optax.piecewise_constant_schedule(high, dict.fromkeys(steps, factor))


def constant(value: float) -> Schedule:
    """The same value at every step."""
    return lambda step: jnp.asarray(value, jnp.float32)


def by_epoch(
    schedule: Schedule, steps_per_epoch: int, first_epoch: int = 0
) -> Schedule:
    """A schedule of steps, constant within each epoch.

    first_epoch: the position of the first epoch on the schedule: 0, or 1 to follow code
        that steps its scheduler before each epoch, such as the code of the search, of
        Bi-Real Net and of ReActNet.
    """

    def of_epoch(step):
        epoch = step // steps_per_epoch + first_epoch
        return schedule(epoch * steps_per_epoch)

    return of_epoch
