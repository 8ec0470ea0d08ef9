"""How the cost of a step grows with channels, cells and batch."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from bnas_jax.benchmarks import measure
from bnas_jax.benchmarks.programs import noise, program_of
from bnas_jax.benchmarks.stepper import Stepper
from bnas_jax.core.errors import UserError
from bnas_jax.core.stack import reductions
from bnas_jax.data.load import Dataset
from bnas_jax.runtime import devices, jax_setup
from bnas_jax.settings import SearchSettings, TrainSettings

# The factors by which each size is multiplied, one size at a time.
FACTORS = {
    "channels": (Fraction(1, 2), 1, 2),
    "cells": (Fraction(1, 2), 1, 2),
    "batch": (Fraction(1, 4), Fraction(1, 2), 1),
}


class Size(NamedTuple):
    """The size of a run."""

    channels: int  # the width of the first cell
    cells: int  # the number of cells
    batch: int  # the number of examples in a batch


def benchmark(
    run: SearchSettings | TrainSettings, image_size: int, num_classes: int, repeats: int
) -> dict:
    """Time and temporary memory of steps of several sizes around the run's.

    Each number in `Size` is varied by itself. "exponents" are the b of the best fit
    cost = a * size**b. Raises `UserError` for a network without channels and cells.
    """
    network: Any = run.network
    if not (hasattr(network, "channels") and hasattr(network, "num_cells")):
        raise UserError(
            "--grow varies config.network.channels and num_cells, which this network "
            "does not have; leave it out"
        )
    # The devices of the run, as in `search` and `train`.
    where = jax_setup.configure(run)
    where.check_batch(run)
    varied = _varied(run, where)

    # Measure each size once: the run's own size is varied in each of its numbers.
    rows: dict[Size, dict] = {}
    for size in itertools.chain(*varied.values()):
        if size in rows:
            continue
        measure.say(f"{size.cells} cells, {size.channels} channels, batch {size.batch}")
        sized = of_size(run, size)
        data = noise(4 * size.batch, image_size=image_size, num_classes=num_classes)
        rows[size] = _row(sized, data=data, repeats=repeats, where=where)

    return {
        "rows": [{**size._asdict(), **row} for size, row in rows.items()],
        "exponents": _exponents(varied, rows),
        "image_size": image_size,
        "devices": f"{run.parallel}, {where.count}",
        "conditions": measure.conditions(),
    }


def _varied(
    run: SearchSettings | TrainSettings, where: devices.Devices
) -> dict[str, list[Size]]:
    """For each number of `Size`, the sizes around the run's that differ in it."""
    network: Any = run.network
    base = Size(network.channels, cells=network.num_cells, batch=run.batch_size)

    # Each number must be a multiple of its unit. ImageNet's stem halves the channels,
    # and the batch is divided over devices and microbatches.
    units = Size(channels=1, cells=1, batch=where.count * run.microbatches)
    if getattr(network, "form", None) == "imagenet":
        units = units._replace(channels=2)
    return {name: sizes(base, name, unit=getattr(units, name)) for name in FACTORS}


def _exponents(
    varied: Mapping[str, Sequence[Size]], rows: Mapping[Size, Mapping]
) -> dict[str, dict]:
    """The exponents of time and memory over each number of `Size`."""
    exponents = {}
    for name, of_name in varied.items():
        # (size, cost) of the sizes that differ in this number.
        times, memories = [], []
        for size in of_name:
            value = getattr(size, name)
            row = rows[size]
            times.append((value, row["step_seconds"]["median"]))
            memories.append((value, row["temp_memory_mib"]))
        exponents[name] = {
            "seconds": exponent(times),
            "temp_memory": exponent(memories),
        }
    return exponents


def sizes(base: Size, name: str, unit: int) -> list[Size]:
    """The base with one of its numbers varied by `FACTORS`, in ascending order.

    The number is a multiple of the unit. Only sizes with as many reductions as the base
    are included: other numbers of reductions may not fit the images, and would change
    the cost by themselves.
    """
    # Round down to a multiple of the unit, but not to 0.
    values = set()
    number = getattr(base, name)
    for factor in FACTORS[name]:
        units = int(number * factor) // unit
        values.add(max(units, 1) * unit)

    found = []
    for value in sorted(values):
        size = base._replace(**{name: value})
        if len(reductions(size.cells)) == len(reductions(base.cells)):
            found.append(size)
    return found


def of_size(
    run: SearchSettings | TrainSettings, size: Size
) -> SearchSettings | TrainSettings:
    """The same run with another size."""
    network: Any = run.network  # any network with these settings
    network = dataclasses.replace(network, channels=size.channels, num_cells=size.cells)
    return dataclasses.replace(run, network=network, batch_size=size.batch)


def exponent(points: list[tuple[int, float | None]]) -> float | None:
    """b of the fit y = a * x**b, by least squares on the logarithms.

    None for fewer than two points with a known y.

    points: pairs (x, y), where y is None if it is not known.
    """
    known = [(x, y) for x, y in points if y]
    if len(known) < 2:
        return None
    # log y = log a + b log x, a line with the slope b.
    x, y = np.log(np.array(known, float)).T  # (points,) each
    slope, _ = np.polyfit(x, y, deg=1)
    return measure.short(slope)


def _row(
    run: SearchSettings | TrainSettings,
    *,
    data: Dataset,
    repeats: int,
    where: devices.Devices,
) -> dict:
    """Time and temporary memory of a step of the run."""
    program = program_of(run, data=data, where=where)
    stepper = Stepper(program, where)
    seconds = measure.seconds(stepper.step, repeats)
    times = measure.summary(seconds)
    measure.say(f"step: {times['median']} s")
    return {"step_seconds": times, "temp_memory_mib": stepper.temp_memory_mib}
