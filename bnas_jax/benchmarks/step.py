"""Measures a step of search or training.

It measures time, compiling and memory, and how much of the machine a step uses.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from bnas_jax.benchmarks import bound, measure
from bnas_jax.benchmarks.busy import busy
from bnas_jax.benchmarks.programs import noise, plain_program_of, program_of, size_of
from bnas_jax.benchmarks.stepper import Stepper
from bnas_jax.core.errors import first_line
from bnas_jax.data.load import Dataset
from bnas_jax.plan.blank_data import SIZES
from bnas_jax.runtime import devices, jax_setup
from bnas_jax.settings import SearchSettings, TrainSettings
from bnas_jax.training.build import Program

_MATRIX = 2048  # the size of the matrices of `matrix_peak`
_DISPATCHES = 100  # repeats of a step that computes nothing


def benchmark(
    run: SearchSettings | TrainSettings,
    image_size: int,
    num_classes: int,
    repeats: int,
    against_plain: bool = False,
) -> dict:
    """The figures of the steps that `search` or `train` would make, on random images.

    On a chip whose rates are known, they include the bound of `plan`, and on NVIDIA's
    GPUs the share of time in which a kernel ran.

    image_size: the side of the images, in pixels; they have three channels.
    against_plain: True also measures the plain form (`programs.plain_program_of`), in
        turns with ours, and adds the ratios.
    """
    # The steps of the run on noise.
    where = jax_setup.configure(run)
    where.check_batch(run)
    data = noise(4 * run.batch_size, image_size=image_size, num_classes=num_classes)
    program = program_of(run, data=data, where=where)

    # Ours alone: the memory, before anything else needs some, and the time of a step
    # that computes nothing.
    ours = Stepper(program, where)
    ours.step()
    peak_memory = _peak_memory()
    dispatch = measure.seconds(ours.idle_step, _DISPATCHES)

    # Steps of both forms in turns.
    steppers = {"ours": ours}
    if against_plain:
        plain = plain_program_of(run, data=data, where=where)
        steppers["plain"] = Stepper(plain, where, tuned=False)
        steppers["plain"].step()
    steps = [stepper.step for stepper in steppers.values()]
    with busy(_gpus(where, against_plain)) as found:
        measured = measure.in_turns(steps, repeats)
        in_a_row = _in_a_row(ours, repeats)
    times = dict(zip(steppers, measured, strict=True))

    # In the result, our figures are at the top level, those of the plain form under
    # "plain".
    figures = {}
    for name, stepper in steppers.items():
        figures[name] = _figures(stepper, times=times[name], batch_size=run.batch_size)
    step_seconds = float(np.median(times["ours"]))
    of_run = in_a_row or step_seconds  # a step in a run
    share_of_dispatch = np.median(dispatch) / step_seconds
    result = {
        "batch_size": run.batch_size,
        "network": size_of(run, image_size),
        "devices": f"{run.parallel}, {where.count}",
        **figures.pop("ours"),
        "compilation_cache": jax.config.values["jax_compilation_cache_dir"],
        "peak_memory_mib": peak_memory,
        "dispatch_seconds": measure.summary(dispatch),
        "dispatch_percent": measure.short(100 * share_of_dispatch),
        "gpu_busy_percent": found.percent,
        "step_seconds_in_a_row": in_a_row,
        "images_per_second": measure.short(run.batch_size / of_run),
        "hours_of_all_steps": _hours(run, data, of_run),
        **figures,
        "conditions": measure.conditions(),
    }

    # How much of the machine our steps use, and how they compare.
    result |= _bound(ours, where, precision=run.precision, step_seconds=step_seconds)
    # XLA counts operations of one device.
    if where.axis is None and _counts_operations():
        result |= _flop_figures(program, times=times["ours"], repeats=repeats)
    if against_plain:
        result["ratio"] = _ratios(result["plain"], ours=result, times=times)
    return result


def _bound(
    stepper: Stepper,
    where: devices.Devices,
    *,
    precision: str,
    step_seconds: float,
) -> dict[str, dict]:
    """{"bound": see `bound.figures`}, {} where it is not known, as on a CPU."""
    chip = bound.chip_here()
    if chip is None or not chip.peak(precision):
        return {}
    # If the text of a program cannot be read, the measurements must not be lost.
    try:
        figures = bound.figures(
            stepper.calls(),
            stepper.compiled,
            where=where,
            chip=chip,
            precision=precision,
            step_seconds=step_seconds,
        )
    except Exception as error:
        measure.say(f"the least time of a step is not known ({first_line(error)})")
        return {}
    return {"bound": figures}


def _in_a_row(stepper: Stepper, number: int) -> float | None:
    """Seconds per step if `number` steps are dispatched ahead, as in a run.

    None on a CPU, where a step is dispatched when the previous one is done.
    """
    if jax.default_backend() == "cpu":
        return None
    seconds = measure.once(lambda: stepper.steps(number))
    return measure.short(seconds / number)


def _gpus(where: devices.Devices, against_plain: bool) -> int:
    """The number of NVIDIA's GPUs that compute our steps; 0 on other machines.

    It is also 0 with the plain form: the driver does not tell whose step was running.
    """
    if jax.default_backend() != "gpu" or against_plain:
        return 0
    return jax.local_device_count() if where.axis else 1


def _figures(stepper: Stepper, *, times: list[float], batch_size: int) -> dict:
    """The figures that are measured for both forms. times: seconds of steps."""
    return {
        "step_seconds": measure.summary(times),
        "images_per_second": measure.short(batch_size / np.median(times)),
        **stepper.compiling,
        "temp_memory_mib": stepper.temp_memory_mib,
        "state_leaves": stepper.state_leaves,
    }


def _hours(
    run: SearchSettings | TrainSettings, data: Dataset, step_seconds: float
) -> float | None:
    """Hours of all steps of a run, without evaluations.

    None if the run's data set is not in `SIZES`, or differs from the measured images in
    their size or number of classes.

    data: the images on which steps were measured.
    """
    size = SIZES.get(run.dataset.name)
    measured = (*data.train.image_shape[:2], data.train.num_classes)
    if size is None or measured != (size.side, size.side, size.classes):
        return None

    # An epoch of a search goes through the share of the images that trains weights.
    images = size.train
    if isinstance(run, SearchSettings):
        images = math.ceil(run.searcher.train_share * images)
    steps = run.num_epochs * (images // run.batch_size)
    return measure.short(steps * step_seconds / 3600)


def _ratios(theirs: dict, *, ours: dict, times: dict[str, list[float]]) -> dict:
    """The ratios of the plain form's figures to ours.

    For the time of a step, it is the ratio in each turn. A ratio is None if one of the
    figures is not known, such as the time to compile a program that was in the cache.
    """

    def ratio(name: str) -> float | None:
        if not theirs[name] or not ours[name]:
            return None
        return measure.short(theirs[name] / ours[name])

    # A program from the cache was not compiled.
    compiling = ratio("compiling_seconds")
    if theirs["programs_from_cache"] or ours["programs_from_cache"]:
        compiling = None

    # Other programs slow down both steps of a turn alike.
    pairs = zip(times["plain"], times["ours"], strict=True)
    of_turns = [plain / our for plain, our in pairs]
    return {
        "step_seconds": measure.summary(of_turns),
        "tracing_seconds": ratio("tracing_seconds"),
        "compiling_seconds": compiling,
        "temp_memory_mib": ratio("temp_memory_mib"),
    }


def _flop_figures(program: Program, *, times: list[float], repeats: int) -> dict:
    """Figures of the operations of a step, as XLA counts them before it optimizes.

    times: the seconds of each step.
    """
    # The operations of a step are the sum over its stages.
    shapes = jax.eval_shape(program.create, 0)
    flops = 0.0
    for stage, feed in zip(program.stages, program.feeds(0), strict=True):
        flops += _flops(stage, state=shapes, feed=feed)

    # Operations per second, compared with a matrix product on the same machine.
    seconds = float(np.median(times))
    peak = matrix_peak(repeats)
    return {
        "gflop_per_step": round(flops / 1e9),
        "gflops_per_second": round(flops / 1e9 / seconds),
        "gflops_per_second_of_a_matrix_product": round(peak / 1e9),
        "share_of_that_percent": round(100 * flops / seconds / peak, 1),
    }


def matrix_peak(repeats: int) -> float:
    """Operations per second in a product of two float32 matrices of 2048x2048.

    This is about the highest rate of the machine.
    """
    matrix = jnp.ones((_MATRIX, _MATRIX), jnp.float32)
    product = jax.jit(lambda a: a @ a)

    def multiply() -> None:
        jax.block_until_ready(product(matrix))

    times = measure.seconds(multiply, max(repeats, 3))
    # A multiplication and an addition for each term.
    return 2 * _MATRIX**3 / min(times)


def _counts_operations() -> bool:
    """Whether XLA counts operations before it compiles a program: not on GPUs and TPUs.

    If it does not, the stages need not be traced again.
    """
    return jax.jit(lambda: 0).lower().cost_analysis() is not None


def _flops(stage, *, state, feed) -> float:
    """XLA's count of the operations of a stage, 0 if the backend has none."""
    lowered = jax.jit(stage).lower(state, feed)
    analysis = lowered.cost_analysis() or {}
    return analysis.get("flops", 0.0)


def _peak_memory() -> int:
    """The largest memory so far, in MiB, of the device.

    It is that of this process if the device does not report its memory, as on a CPU.
    """
    statistics = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in statistics:
        return round(statistics["peak_bytes_in_use"] / 2**20)
    return round(measure.peak_memory_mib())
