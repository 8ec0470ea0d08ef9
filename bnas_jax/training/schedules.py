"""Learning rates and momenta as functions of the step (section 5.1; methods.md D)."""

from collections.abc import Callable

import jax.numpy as jnp

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
    """The same at every step."""
    return lambda step: jnp.asarray(value, jnp.float32)


def cosine_by_epoch(high: float, low: float, *, num_epochs: int, steps_per_epoch: int, first_epoch: int = 0) -> Schedule:
    """Half a cosine from high to low over all epochs, constant within each: the search's.

    first_epoch: where on the cosine the first epoch lies: 0, or 1 in the release, which steps its scheduler beforehand.
    """

    def rate(step):
        epoch = jnp.asarray(step // steps_per_epoch + first_epoch, jnp.float32)
        return low + (high - low) * (1 + jnp.cos(jnp.pi * epoch / num_epochs)) / 2

    return rate
