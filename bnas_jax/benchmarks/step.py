"""What a step of search or training costs: time, compiling, memory, and how much of the machine it uses."""

import dataclasses
import resource

import jax
import jax.numpy as jnp
import numpy as np

from bnas_jax.benchmarks import measure, plain
from bnas_jax.benchmarks.stepper import Stepper
from bnas_jax.data.arrays import Arrays
from bnas_jax.data.augment import Augmentation
from bnas_jax.data.load import Dataset
from bnas_jax.settings import SearchSettings, TrainSettings
from bnas_jax.runtime import devices
from bnas_jax.training import search, train
from bnas_jax.training.program import Program

_CIFAR = Augmentation((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), pad=4, flip=True)
_MATRIX = 2048
_DISPATCHES = 100


def benchmark(
    run: SearchSettings | TrainSettings, image_size: int, num_classes: int, repeats: int, against_plain: bool = False
) -> dict:
    """All figures of the steps that `search` or `train` would make on colour images of seeded noise.

    against_plain: also those of the plain variant, in turns with ours, and how they compare.
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
        with plain.forms():
            steppers["plain"] = Stepper(plain.in_one(program_of(in_halves(run), data, where)), where)
            steppers["plain"].step()
    times = dict(zip(steppers, measure.in_turns([stepper.step for stepper in steppers.values()], repeats), strict=True))
    figures = {name: _figures(stepper, times[name], run.batch_size) for name, stepper in steppers.items()}
    result = {
        "batch_size": run.batch_size,
        "network": network_of(run, image_size),
        "devices": f"{run.parallel}, {where.count}",
        **figures.pop("ours"),
        "compilation_cache": jax.config.values["jax_compilation_cache_dir"],
        "peak_memory_mib": peak_memory,
        "dispatch_seconds": measure.summary(dispatch),
        "dispatch_percent": measure.short(100 * np.median(dispatch) / np.median(times["ours"])),
        **(_flop_figures(program_of(in_halves(run), data, where), times["ours"], repeats) if where.axis is None else {}),
        **figures,
        "conditions": measure.conditions(),
    }
    if against_plain:
        result["ratio"] = _ratios(result["plain"], result, times)
    return result


def _figures(stepper: Stepper, times: list[float], batch_size: int) -> dict:
    """What is measured of ours and of the plain variant alike."""
    return {
        "step_seconds": measure.summary(times),
        "images_per_second": measure.short(batch_size / np.median(times)),
        **stepper.compiling,
        "temp_memory_mib": stepper.temp_memory_mib,
        "state_leaves": stepper.state_leaves,
    }


def _ratios(theirs: dict, ours: dict, times: dict[str, list[float]]) -> dict:
    """Plain over ours; of the times those of the pairs. None where not known, as of compiling what JAX had in its cache."""
    ratio = lambda name: measure.short(theirs[name] / ours[name]) if theirs[name] and ours[name] else None
    from_cache = theirs["programs_from_cache"] + ours["programs_from_cache"]
    return {
        "step_seconds": measure.summary([plain / own for plain, own in zip(times["plain"], times["ours"], strict=True)]),
        "tracing_seconds": ratio("tracing_seconds"),
        "compiling_seconds": None if from_cache else ratio("compiling_seconds"),
        "temp_memory_mib": ratio("temp_memory_mib"),
    }


def _flop_figures(program: Program, times: list[float], repeats: int) -> dict:
    """Of steps of these times on one device: what XLA counts is that of a device before its optimizations."""
    seconds = float(np.median(times))
    shapes = jax.eval_shape(program.create)
    flops = sum(_flops(stage, shapes, feed) for stage, feed in zip(program.stages, program.feeds(0), strict=True))
    peak = matrix_peak(repeats)
    return {
        "gflop_per_step": round(flops / 1e9),
        "gflops_per_second": round(flops / 1e9 / seconds),
        "gflops_per_second_of_a_matrix_product": round(peak / 1e9),
        "share_of_that_percent": round(100 * flops / seconds / peak, 1),
    }


def program_of(run: SearchSettings | TrainSettings, data: Dataset, where: devices.Devices) -> Program:
    """The steps that `search` or `train` would make."""
    return search.program(run, data, where) if isinstance(run, SearchSettings) else train.program(run, data, where)


def in_halves(run: SearchSettings | TrainSettings) -> SearchSettings | TrainSettings:
    """The same steps, those of a search as two programs that know their halves: of conditions XLA counts either side."""
    return dataclasses.replace(run, halves="two") if isinstance(run, SearchSettings) else run


def network_of(run: SearchSettings | TrainSettings, image_size: int) -> str:
    """Its size, for people."""
    return f"{run.network.num_cells} cells, {run.network.channels} channels, {image_size}x{image_size} images"


def noise(size: int, image_size: int, num_classes: int) -> Dataset:
    """Images of seeded noise, in memory."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (size, image_size, image_size, 3), dtype=np.uint8)
    arrays = Arrays(pixels, rng.integers(0, num_classes, size), num_classes, "noise")
    return Dataset(arrays, arrays, _CIFAR)


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
