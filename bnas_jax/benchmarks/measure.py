"""Repeated timings, and the conditions under which they were taken."""

import importlib.metadata
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np

from bnas_jax.training.workdir import environment


def seconds(run: Callable[[], object], repeats: int) -> list[float]:
    """The wall time of each of `repeats` calls, in seconds.

    A first call is not measured, as it compiles and loads.
    """
    run()
    return [once(run) for _ in range(repeats)]


def once(run: Callable[[], object]) -> float:
    """The wall time of one call, in seconds."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def cpu_once(run: Callable[[], object]) -> float:
    """The processor time of one call, in seconds.

    It is the time that the call would take on a core that does nothing else.
    """
    started = time.process_time()
    run()
    return time.process_time() - started


def in_turns(runs: Sequence[Callable[[], object]], repeats: int) -> list[list[float]]:
    """The wall times of each function, in seconds; they are called in turns.

    Other programs on the machine then slow down all of them alike.
    """
    times: list[list[float]] = [[] for _ in runs]  # [runs][turns]
    for _ in range(repeats):
        for run, of_run in zip(runs, times, strict=True):
            of_run.append(once(run))
    return times


def summary(values: list[float]) -> dict[str, float]:
    """The median, the lowest and the highest value."""
    return {
        "median": short(np.median(values)),
        "lowest": short(min(values)),
        "highest": short(max(values)),
    }


def peak_memory_mib() -> float:
    """The largest memory that this process has had so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # In bytes on macOS, in KiB on Linux.
    units_per_mib = 2**20 if sys.platform == "darwin" else 2**10
    return peak / units_per_mib


def say(text: str) -> None:
    """Prints a line about the progress to stderr; the result goes to stdout."""
    print(text, file=sys.stderr)


def conditions(*libraries: str) -> dict[str, str | int]:
    """The hardware and the versions, including those of `libraries`."""
    versions = {name: importlib.metadata.version(name) for name in libraries}
    return {
        **environment(),
        "cpu": _cpu(),
        "cores": os.cpu_count() or 1,
        **versions,
    }


def _cpu() -> str:
    """The name of the processor; its architecture where the system does not tell it.

    Linux tells it on x86 alone.
    """
    try:
        with open("/proc/cpuinfo") as file:
            lines = file.readlines()
    except OSError:
        lines = []
    # `model name : AMD EPYC ...`, once for each core.
    for line in lines:
        if line.startswith("model name"):
            _, _, name = line.partition(":")
            return name.strip()
    return platform.machine() or "unknown"


def short(value: float) -> float:
    """The value, rounded to four digits."""
    return float(f"{value:.4g}")
