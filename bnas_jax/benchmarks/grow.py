"""How the cost of a step grows with channels, cells and batch."""

import dataclasses
import sys
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from bnas_jax.benchmarks import measure
from bnas_jax.benchmarks.programs import noise, program_of
from bnas_jax.benchmarks.stepper import Stepper
from bnas_jax.core.errors import UserError
from bnas_jax.core.stack import reductions
from bnas_jax.runtime import devices
from bnas_jax.settings import SearchSettings, TrainSettings

# What a size is multiplied with while the others stay.
FACTORS = {
    "channels": (Fraction(1, 2), 1, 2),
    "cells": (Fraction(1, 2), 1, 2),
    "batch": (Fraction(1, 4), Fraction(1, 2), 1),
}


class Size(NamedTuple):
    channels: int
    cells: int
    batch: int


def benchmark(
    run: SearchSettings | TrainSettings, image_size: int, num_classes: int, repeats: int
) -> dict:
    """Time and temporary memory of steps of several sizes around the run's, each varied by itself, and the exponents b of
    cost = a * size**b that fit them best."""
    network: Any = run.network
    if not (hasattr(network, "channels") and hasattr(network, "num_cells")):
        raise UserError(
            "--grow varies config.network.channels and num_cells, which this network does not have; leave it out"
        )
    where = devices.configure(run)
    where.check_batch(run)
    base = Size(network.channels, network.num_cells, run.batch_size)
    units = Size(
        2 if getattr(network, "form", None) == "imagenet" else 1, 1, where.count * run.microbatches
    )
    varied = {name: sizes(base, name, getattr(units, name)) for name in FACTORS}
    rows: dict[Size, dict] = {}
    for size in [size for of_name in varied.values() for size in of_name]:
        if size not in rows:
            print(
                f"{size.cells} cells, {size.channels} channels, batch {size.batch}", file=sys.stderr
            )
            rows[size] = _row(of_size(run, size), image_size, num_classes, repeats, where)
    return {
        "rows": [{**size._asdict(), **row} for size, row in rows.items()],
        "exponents": {
            name: {
                "seconds": exponent(
                    [
                        (getattr(size, name), rows[size]["step_seconds"]["median"])
                        for size in of_name
                    ]
                ),
                "temp_memory": exponent(
                    [(getattr(size, name), rows[size]["temp_memory_mib"]) for size in of_name]
                ),
            }
            for name, of_name in varied.items()
        },
        "image_size": image_size,
        "devices": f"{run.parallel}, {where.count}",
        "conditions": measure.conditions(),
    }


def sizes(base: Size, name: str, unit: int) -> list[Size]:
    """The base with one of its numbers varied, in multiples of the unit; all with as many reductions as the base.

    Those fit the images, and what more of them would save is not taken for a property of cells.
    """
    values = {max(int(getattr(base, name) * factor) // unit, 1) * unit for factor in FACTORS[name]}
    found = [base._replace(**{name: value}) for value in sorted(values)]
    return [size for size in found if len(reductions(size.cells)) == len(reductions(base.cells))]


def of_size(run: SearchSettings | TrainSettings, size: Size) -> SearchSettings | TrainSettings:
    """The same run of another size."""
    network: Any = run.network
    network = dataclasses.replace(network, channels=size.channels, num_cells=size.cells)
    return dataclasses.replace(run, network=network, batch_size=size.batch)


def exponent(points: list[tuple[int, float | None]]) -> float | None:
    """b of y = a * x**b, by least squares between the logarithms of (x, y); None for fewer than two points that are known."""
    known = [(x, y) for x, y in points if y]
    if len(known) < 2:
        return None
    x, y = np.log(np.array(known, float)).T
    return measure.short(np.polyfit(x, y, 1)[0])


def _row(
    run: SearchSettings | TrainSettings,
    image_size: int,
    num_classes: int,
    repeats: int,
    where: devices.Devices,
) -> dict:
    stepper = Stepper(
        program_of(run, noise(4 * run.batch_size, image_size, num_classes), where), where
    )
    times = measure.summary(measure.seconds(stepper.step, repeats))
    print(f"step: {times['median']} s", file=sys.stderr)
    return {"step_seconds": times, "temp_memory_mib": stepper.temp_memory_mib}
