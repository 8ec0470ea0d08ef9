"""The least time that a measured step can take on the chip that made it, to be read
beside the measurement.
"""

from collections.abc import Sequence
from typing import Any

import jax

from bnas_jax.benchmarks import measure
from bnas_jax.plan.chips import Chip, chip_of
from bnas_jax.plan.roofline import COMPUTING, bound
from bnas_jax.plan.work import read
from bnas_jax.runtime.compiling import Call
from bnas_jax.runtime.devices import Devices


def chip_here() -> Chip | None:
    """The chip of JAX's first device; None where its rates are not known, as those of a
    CPU.
    """
    return chip_of(jax.local_devices()[0].device_kind)


def figures(
    calls: Sequence[Call],
    compiled: Sequence[jax.stages.Compiled],
    *,
    where: Devices,
    chip: Chip,
    precision: str,
    step_seconds: float,
) -> dict[str, Any]:
    """The least time of a step by operations, memory and messages, and how many percent
    of the measured time it is.

    calls: the step's jitted programs, each with the arguments of a call. compiled: what
    each of them was compiled to, in the same order. where: the devices; chip: what one
    of them can do. precision: `config.precision`. step_seconds: the measured time of a
    step. Under `pmap`, which does not show the operations of a program, those have no
    part in the bound.
    """
    bounds = []
    for (program, arguments), made in zip(calls, compiled, strict=True):
        traced = None
        if where.parallel != "pmap":
            traced = program.trace(*arguments).jaxpr.jaxpr
        work, _, _ = read(
            made,
            traced,
            chips=where.count,
            chips_per_host=jax.local_device_count(),
            switch_adds=chip.switch_adds,
        )
        of_program = bound(work, chip, precision=precision)
        if traced is None:
            of_program = of_program.without(COMPUTING)
        bounds.append(of_program)

    # The stages of a step run one after the other.
    seconds = sum(each.seconds for each in bounds)
    parts = {name: sum(each.times[name] for each in bounds) for name in bounds[0].times}
    return {
        "chip": chip.name,
        "step_seconds_at_least": measure.short(seconds),
        "bound_by": max(bounds, key=lambda each: each.seconds).by,
        "seconds_of_each_at_least": {
            name: measure.short(part) for name, part in parts.items()
        },
        "percent_of_the_step": measure.short(100 * seconds / step_seconds),
    }
