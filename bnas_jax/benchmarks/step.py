"""What a step of search or training costs: time, compiling, memory, and how much of the machine it uses."""

import resource

import jax
import jax.numpy as jnp
import numpy as np

from bnas_jax.benchmarks import measure
from bnas_jax.benchmarks.programs import noise, plain_program_of, program_of, size_of
from bnas_jax.benchmarks.stepper import Stepper
from bnas_jax.runtime import devices
from bnas_jax.settings import SearchSettings, TrainSettings
from bnas_jax.training.build import Program

_MATRIX = 2048
_DISPATCHES = 100


def benchmark(
    run: SearchSettings | TrainSettings,
    image_size: int,
    num_classes: int,
    repeats: int,
    against_plain: bool = False,
) -> dict:
    """All figures of the steps that `search` or `train` would make on colour images of seeded noise.

    against_plain: also those of the plain form, in turns with ours, and how they compare.
    """
    where = devices.configure(run)
    where.check_batch(run)
    data = noise(4 * run.batch_size, image_size, num_classes)
    program = program_of(run, data, where)
    steppers = {"ours": Stepper(program, where)}
    steppers["ours"].step()
    peak_memory = _peak_memory()  # before anything else takes memory
    dispatch = measure.seconds(steppers["ours"].idle_step, _DISPATCHES)
    if against_plain:
        steppers["plain"] = Stepper(plain_program_of(run, data, where), where, tuned=False)
        steppers["plain"].step()
    times = dict(
        zip(
            steppers,
            measure.in_turns([stepper.step for stepper in steppers.values()], repeats),
            strict=True,
        )
    )
    figures = {
        name: _figures(stepper, times[name], run.batch_size) for name, stepper in steppers.items()
    }
    result = {
        "batch_size": run.batch_size,
        "network": size_of(run, image_size),
        "devices": f"{run.parallel}, {where.count}",
        **figures.pop("ours"),
        "compilation_cache": jax.config.values["jax_compilation_cache_dir"],
        "peak_memory_mib": peak_memory,
        "dispatch_seconds": measure.summary(dispatch),
        "dispatch_percent": measure.short(100 * np.median(dispatch) / np.median(times["ours"])),
        **figures,
        "conditions": measure.conditions(),
    }
    if where.axis is None:
        result |= _flop_figures(program, times["ours"], repeats)
    if against_plain:
        result["ratio"] = _ratios(result["plain"], result, times)
    return result


def _figures(stepper: Stepper, times: list[float], batch_size: int) -> dict:
    """What is measured of ours and of the plain form alike."""
    return {
        "step_seconds": measure.summary(times),
        "images_per_second": measure.short(batch_size / np.median(times)),
        **stepper.compiling,
        "temp_memory_mib": stepper.temp_memory_mib,
        "state_leaves": stepper.state_leaves,
    }


def _ratios(theirs: dict, ours: dict, times: dict[str, list[float]]) -> dict:
    """Plain over ours; of the times those of the pairs. None where not known, as of compiling what JAX had in its cache."""
    ratio = lambda name: (
        measure.short(theirs[name] / ours[name]) if theirs[name] and ours[name] else None
    )
    from_cache = theirs["programs_from_cache"] + ours["programs_from_cache"]
    return {
        "step_seconds": measure.summary(
            [plain / own for plain, own in zip(times["plain"], times["ours"], strict=True)]
        ),
        "tracing_seconds": ratio("tracing_seconds"),
        "compiling_seconds": None if from_cache else ratio("compiling_seconds"),
        "temp_memory_mib": ratio("temp_memory_mib"),
    }


def _flop_figures(program: Program, times: list[float], repeats: int) -> dict:
    """Of steps of these times on one device: what XLA counts is that of a device before its optimizations."""
    seconds = float(np.median(times))
    shapes = jax.eval_shape(program.create, 0)
    flops = sum(
        _flops(stage, shapes, feed)
        for stage, feed in zip(program.stages, program.feeds(0), strict=True)
    )
    peak = matrix_peak(repeats)
    return {
        "gflop_per_step": round(flops / 1e9),
        "gflops_per_second": round(flops / 1e9 / seconds),
        "gflops_per_second_of_a_matrix_product": round(peak / 1e9),
        "share_of_that_percent": round(100 * flops / seconds / peak, 1),
    }


def matrix_peak(repeats: int) -> float:
    """Operations per second of a product of square float32 matrices of 2048: about what the machine can do at most."""
    matrix = jnp.ones((_MATRIX, _MATRIX), jnp.float32)
    product = jax.jit(lambda a: a @ a)
    times = measure.seconds(lambda: jax.block_until_ready(product(matrix)), max(repeats, 3))
    return 2 * _MATRIX**3 / min(times)


def _flops(stage, state, feed) -> float:
    return (jax.jit(stage).lower(state, feed).cost_analysis() or {}).get("flops", 0.0)


def _peak_memory() -> int:
    """Of the device where it tells, else of this process."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in statistics:
        return round(statistics["peak_bytes_in_use"] / 2**20)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
