"""Repeated timings and what a figure belongs to."""

import importlib.metadata
import os
import time
from collections.abc import Callable, Sequence

import numpy as np

from bnas_jax.training.workdir import environment


def seconds(run: Callable[[], object], repeats: int) -> list[float]:
    """The wall time of each of `repeats` calls, after one that does not count."""
    run()
    return [once(run) for _ in range(repeats)]


def once(run: Callable[[], object]) -> float:
    """The wall time of one call."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def cpu_once(run: Callable[[], object]) -> float:
    """The processor time of one call: what it would take on a core of its own."""
    started = time.process_time()
    run()
    return time.process_time() - started


def in_turns(runs: Sequence[Callable[[], object]], repeats: int) -> list[list[float]]:
    """The wall times of each of the runs, called in turns, so that a load from elsewhere falls on all of them."""
    rounds = [[once(run) for run in runs] for _ in range(repeats)]
    return [list(times) for times in zip(*rounds, strict=True)]


def summary(values: list[float]) -> dict[str, float]:
    """The median and the spread, lowest to highest."""
    return {
        "median": short(np.median(values)),
        "lowest": short(min(values)),
        "highest": short(max(values)),
    }


def conditions(*libraries: str) -> dict[str, str | int]:
    """Hardware and versions, those of `libraries` among them."""
    versions = {name: importlib.metadata.version(name) for name in libraries}
    return {**environment(), "cpu": _cpu(), "cores": os.cpu_count() or 1, **versions}


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(
                line.partition(":")[2].strip() for line in file if line.startswith("model name")
            )
    except (OSError, StopIteration):
        return "unknown"


def short(value: float) -> float:
    """Four digits of it."""
    return float(f"{value:.4g}")
