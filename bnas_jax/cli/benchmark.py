"""`benchmark`: times parts of the package."""

import functools
from collections.abc import Callable

from absl import flags

from bnas_jax import settings
from bnas_jax.cli.configs import Loaded, configured, preset_of, task_of
from bnas_jax.cli.flags import number, options, second_word
from bnas_jax.core.errors import UserError
from bnas_jax.settings import SearchSettings, Settings, TrainSettings


def benchmark(arguments: list[str], loaded: Loaded) -> dict:
    """Times parts of the package; figures as JSON."""
    del loaded
    what, *rest = second_word("benchmark", tuple(BENCHMARKS), arguments)
    return BENCHMARKS[what](rest)


def _benchmark_data(arguments: list[str]) -> dict:
    from bnas_jax.benchmarks import data

    values = options(
        arguments, "benchmark data", "preset", "batch_size", "images", "repeats", "workers"
    )
    config = preset_of(values.preset or "mini")
    if values.batch_size is not None:
        config.batch_size = number(values, "batch_size", int)
    run = task_of(
        settings.from_config(config), TrainSettings, "benchmark data", "configs/train.py:mini"
    )
    sizes = {"images": 200, "repeats": 5, "workers": 0}
    for name, least in (("images", 1), ("repeats", 1), ("workers", 0)):
        sizes[name] = number(values, name, int, least=least) or sizes[name]
    return data.benchmark(run, sizes["images"], sizes["repeats"], sizes["workers"])


def _benchmark_step(kind: type, arguments: list[str]) -> dict:
    from bnas_jax.benchmarks import grow, step

    task = "search" if kind is SearchSettings else "train"
    run, sizes, values = _on_noise(arguments, f"benchmark {task}", against=None, grow=False)
    run = task_of(
        run,
        kind,
        f"benchmark {task}",
        f"configs/{task}.py:" + ("cifar10" if task == "search" else "a"),
    )
    if values.against not in (None, "plain"):
        raise UserError(
            f"--against takes plain, the step without what makes it fast; got {values.against!r}"
        )
    if values.against and values.grow:
        raise UserError("--grow measures our step alone; leave out --against")
    return (
        grow.benchmark(run, **sizes)
        if values.grow
        else step.benchmark(run, **sizes, against_plain=bool(values.against))
    )


def _benchmark_save(arguments: list[str]) -> dict:
    from bnas_jax.benchmarks import save

    run, sizes, _ = _on_noise(arguments, "benchmark save")
    run = task_of(run, (SearchSettings, TrainSettings), "benchmark save", "configs/train.py:a")
    return save.benchmark(run, **sizes)


def _on_noise(
    arguments: list[str], command: str, **options: str | bool | None
) -> tuple[Settings | None, dict[str, int], flags.FlagValues]:
    """(the settings, what else a benchmark on images of noise is told, the flags with `options` of its own)"""
    run, values = configured(
        arguments, command, image_size=None, num_classes=None, repeats=None, **options
    )
    sizes = {"image_size": 32, "num_classes": 10, "repeats": 5}
    if run is not None and run.dataset.channels == 1:
        raise UserError(f"{command} makes images of 3 channels: leave config.dataset.channels out")
    if run is not None and run.dataset.image_size is not None:
        sizes["image_size"] = run.dataset.image_size
    for name in sizes:
        sizes[name] = number(values, name, int, least=1) or sizes[name]
    return run, sizes, values


# What can be timed.
BENCHMARKS: dict[str, Callable[[list[str]], dict]] = {
    "data": _benchmark_data,
    "search": functools.partial(_benchmark_step, SearchSettings),
    "train": functools.partial(_benchmark_step, TrainSettings),
    "save": _benchmark_save,
}
