"""A run as the loop around it sees it."""

from collections.abc import Callable
from typing import Any, NamedTuple

from bnas_jax.core.network import Network
from bnas_jax.core.supernet import Supernet


class Program(NamedTuple):
    """create: () -> the first state. stages: those of a step, see `Devices.compile_steps`; feeds: (step) -> a feed for each."""

    model: Network | Supernet
    create: Callable[[], Any]
    stages: tuple[Callable, ...]
    feeds: Callable[[int], tuple]
    steps_per_epoch: int
