"""What a step of search or training costs: time, compiling, memory, and how much of the machine it uses."""

import resource
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from bnas_jax.benchmarks import measure
from bnas_jax.data.arrays import Arrays
from bnas_jax.data.augment import Augmentation
from bnas_jax.data.load import Dataset
from bnas_jax.settings import SearchSettings, TrainSettings
from bnas_jax.training import devices, search, train
from bnas_jax.training.compiling import compile_together
from bnas_jax.training.program import Program

_CIFAR = Augmentation((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), pad=4, flip=True)
_MATRIX = 2048


def benchmark(run: SearchSettings | TrainSettings, image_size: int, num_classes: int, repeats: int) -> dict:
    """All figures of the steps that `search` or `train` would make on colour images of seeded noise."""
    where = devices.configure(run)
    where.check_batch(run)
    data = noise(4 * run.batch_size, image_size, num_classes)
    program = program_of(run, data, where)
    shapes, feeds = jax.eval_shape(program.create), program.feeds(0)
    state = where.settle(where.create(program.create))
    call = where.compile_steps(*program.stages)
    done = 0

    def first_step() -> None:
        compile_together(call.calls(state, [program.feeds(0)]))
        step()

    def step() -> None:
        nonlocal state, done
        state = call(state, [program.feeds(done)])
        jax.block_until_ready(state)
        done += 1

    compiling = _compiling()
    first = measure.once(first_step)
    compiled = {name: round(_covered(spans), 1) for name, spans in compiling.items()}
    _say(f"first step, with tracing and compiling: {first:.1f} s")
    times = measure.seconds(step, repeats)
    # What XLA counts is that of a device before its optimizations.
    flops = None if where.axis else sum(_flops(s, shapes, feed) for s, feed in zip(program.stages, feeds, strict=True))
    result = {
        "batch_size": run.batch_size,
        "network": network_of(run, image_size),
        "devices": f"{run.parallel}, {where.count}",
        "step_seconds": measure.summary(times),
        "images_per_second": float(f"{run.batch_size / np.median(times):.4g}"),
        "first_step_seconds": round(first, 1),
        "tracing_seconds": compiled["tracing"],
        "compiling_seconds": compiled["compiling"],
        "compilation_cache": jax.config.values["jax_compilation_cache_dir"],
        "peak_memory_mib": _peak_memory(),
        "state_leaves": len(jax.tree.leaves(shapes)),
        "conditions": measure.conditions(),
    }
    if flops is not None:
        peak = matrix_peak(repeats)
        result |= {
            "gflop_per_step": round(flops / 1e9),
            "gflops_per_second": round(flops / 1e9 / float(np.median(times))),
            "gflops_per_second_of_a_matrix_product": round(peak / 1e9),
            "share_of_that_percent": round(100 * flops / float(np.median(times)) / peak, 1),
        }
    return result


def program_of(run: SearchSettings | TrainSettings, data: Dataset, where: devices.Devices) -> Program:
    """The steps that `search` or `train` would make."""
    return search.program(run, data, where) if isinstance(run, SearchSettings) else train.program(run, data, where)


def network_of(run: SearchSettings | TrainSettings, image_size: int) -> str:
    """Its size, for people."""
    return f"{run.network.num_cells} cells, {run.network.channels} channels, {image_size}x{image_size} images"


def _compiling() -> dict[str, list[tuple[float, float]]]:
    """(start, end) of everything that JAX traces and lowers, and compiles or loads from its cache, from now on."""
    spans: dict[str, list[tuple[float, float]]] = {"tracing": [], "compiling": []}
    kinds = {"jaxpr_trace": "tracing", "jaxpr_to_mlir_module": "tracing", "backend_compile": "compiling"}

    def note(event: str, duration_secs: float, **kwargs: str | int) -> None:
        del kwargs
        kind = kinds.get(event.rpartition("/")[2].removesuffix("_duration"))
        if kind:
            now = time.perf_counter()
            spans[kind].append((now - duration_secs, now))

    jax.monitoring.register_event_duration_secs_listener(note)
    return spans


def _covered(spans: list[tuple[float, float]]) -> float:
    """Seconds that lie in one or more of the spans: programs are compiled side by side, and tracing has tracing within."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


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


def _say(text: str) -> None:
    print(text, file=sys.stderr)
