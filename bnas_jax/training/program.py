"""A run as the loop around it sees it."""

from collections.abc import Callable
from typing import Any, NamedTuple

from bnas_jax.core.network import Network
from bnas_jax.core.supernet import Supernet
from bnas_jax.data.arrays import Arrays
from bnas_jax.data.encoded import Encoded


class Program(NamedTuple):
    """create: () -> the first state. stages: those of a step, see `Devices.compile_steps`; feeds: (step) -> a feed for each.
    held_out: the examples that an epoch is evaluated on."""

    model: Network | Supernet
    create: Callable[[], Any]
    stages: tuple[Callable, ...]
    feeds: Callable[[int], tuple]
    steps_per_epoch: int
    held_out: Arrays | Encoded
