"""The least time of a measured step on its chip, to compare with the measurement."""

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
    """The chip of JAX's first device; None if its rates are not known, as on a CPU."""
    device = jax.local_devices()[0]
    return chip_of(device.device_kind)


def figures(
    calls: Sequence[Call],
    compiled: Sequence[jax.stages.Compiled],
    *,
    where: Devices,
    chip: Chip,
    precision: str,
    step_seconds: float,
) -> dict[str, Any]:
    """The least time of a step, by operations, memory and messages.

    It is in seconds, and as a percentage of the measured time. With `pmap`, the
    operations of a program are not known, and are left out of the bound.

    calls: the step's jitted programs, each with the arguments of a call.
    compiled: the same programs, compiled, in the same order.
    where, chip: the devices, and the rates of one of them.
    precision: `config.precision`.
    step_seconds: the measured time of a step.
    """
    # The bound of each program by itself.
    bounds = []
    for (program, arguments), made in zip(calls, compiled, strict=True):
        # The work of the compiled program. Operations are also counted in its jaxpr,
        # which `pmap` does not give.
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

        # The least time for that work, without the operations if they are not known.
        of_program = bound(work, chip, precision=precision)
        if traced is None:
            of_program = of_program.without(COMPUTING)
        bounds.append(of_program)

    # The programs of a step run one after the other: their least times add up.
    seconds = sum(each.seconds for each in bounds)
    # By operations, memory and messages.
    parts = {}
    for name in bounds[0].times:
        part = sum(each.times[name] for each in bounds)
        parts[name] = measure.short(part)
    longest = max(bounds, key=lambda each: each.seconds)
    return {
        "chip": chip.name,
        "step_seconds_at_least": measure.short(seconds),
        "bound_by": longest.by,
        "seconds_of_each_at_least": parts,
        "percent_of_the_step": measure.short(100 * seconds / step_seconds),
    }
