"""Measures the cost of a checkpoint.

It measures how long saving blocks the steps, how long it takes until the files are on
disk, and how large they are.
"""

import contextlib
import functools
import pathlib
import sys
import tempfile
from typing import Any

import jax

from bnas_jax.benchmarks import measure
from bnas_jax.benchmarks.programs import noise, program_of, size_of
from bnas_jax.runtime import jax_setup
from bnas_jax.settings import CheckpointSettings, SearchSettings, TrainSettings
from bnas_jax.training.checkpoints import Checkpoints


def benchmark(
    run: SearchSettings | TrainSettings, image_size: int, num_classes: int, repeats: int
) -> dict:
    """The figures of saving a state several times, in a temporary directory."""
    # A new state on the devices of the run, before its first step.
    where = jax_setup.configure(run)
    data = noise(4 * run.batch_size, image_size=image_size, num_classes=num_classes)
    program = program_of(run, data=data, where=where)
    state = jax.block_until_ready(where.create(program.create, 0))

    with tempfile.TemporaryDirectory() as folder:
        directory = pathlib.Path(folder) / "checkpoints"
        checkpoints = Checkpoints(directory, CheckpointSettings(keep_last=1), where)
        with contextlib.closing(checkpoints):
            blocked, on_disk = _save(checkpoints, state, repeats=repeats)

        # The size of the last checkpoint, the only one that is kept.
        last = directory / str(repeats)
        files = [path for path in last.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)

    # The first save is not measured.
    return {
        "network": size_of(run, image_size),
        "devices": f"{run.parallel}, {where.count}",
        "blocked_seconds": measure.summary(blocked[1:]),
        "seconds_until_on_disk": measure.summary(on_disk[1:]),
        "bytes_on_disk": size,
        "state_leaves": len(jax.tree.leaves(state)),
        "conditions": measure.conditions("orbax-checkpoint"),
    }


def _save(
    checkpoints: Checkpoints, state: Any, *, repeats: int
) -> tuple[list[float], list[float]]:
    """(seconds for which each save blocked the steps, seconds until it was on disk).

    There is one save more than `repeats`: the first compiles the copy of the state.
    """
    blocked, on_disk = [], []
    for number in range(repeats + 1):
        # The time that steps have to wait, and the time until the files are complete.
        save = functools.partial(checkpoints.save, number, state)
        seconds = measure.once(save)
        until_there = seconds + measure.once(checkpoints.finish)
        blocked.append(seconds)
        on_disk.append(until_there)
        print(
            f"save {number}: blocked {seconds:.3f} s, on disk after "
            f"{until_there:.2f} s",
            file=sys.stderr,
        )
    return blocked, on_disk
