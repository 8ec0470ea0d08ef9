"""`benchmark`: measures time and memory on this machine.

It measures the step of a search or a training, reading data, saving a checkpoint, or a
packed network.
"""

import functools
from collections.abc import Callable

from absl import flags

from bnas_jax import settings
from bnas_jax.cli.configs import Loaded, configured, preset_of, task_of
from bnas_jax.cli.flags import number, options, second_word
from bnas_jax.core.errors import UserError
from bnas_jax.settings import SearchSettings, Settings, TrainSettings


def benchmark(arguments: list[str], loaded: Loaded) -> dict:
    """Runs one of `BENCHMARKS`; returns its measurements."""
    del loaded  # the extensions have already added their entries
    what, *rest = second_word("benchmark", tuple(BENCHMARKS), arguments)
    return BENCHMARKS[what](rest)


def _benchmark_data(arguments: list[str]) -> dict:
    """Measures how fast images are read and augmented."""
    from bnas_jax.benchmarks import data

    command = "benchmark data"
    names = ("preset", "batch_size", "images", "repeats", "workers")
    values = options(arguments, command, *names)

    # The cost of augmentation is compared with a step of this training.
    config = preset_of(values.preset or "mini")
    if values.batch_size is not None:
        config.batch_size = number(values, "batch_size", kind=int)
    run = task_of(
        settings.from_config(config),
        kind=TrainSettings,
        command=command,
        example="configs/train.py:mini",
    )

    # Each number has a minimum and a default.
    images = number(values, "images", kind=int, least=1) or 200
    repeats = number(values, "repeats", kind=int, least=1) or 5
    workers = number(values, "workers", kind=int, least=0) or 0
    return data.benchmark(run, num_images=images, repeats=repeats, workers=workers)


def _benchmark_step(kind: type, arguments: list[str]) -> dict:
    """Measures a step. kind: `SearchSettings` or `TrainSettings`."""
    from bnas_jax.benchmarks import against_torch, grow, step

    # The name of the task, and a preset for the error about a config of the other task.
    task, variant = "train", "a"
    if kind is SearchSettings:
        task, variant = "search", "cifar10"
    command = f"benchmark {task}"

    # The run, and the sizes of its images.
    run, sizes, values = _on_noise(arguments, command, against=None, grow=False)
    run = task_of(
        run, kind=kind, command=command, example=f"configs/{task}.py:{variant}"
    )

    # --against compares our step with another one; --grow measures only ours.
    if values.against not in (None, "plain", "torch"):
        raise UserError(
            "--against takes plain, the step without what makes it fast, or torch, "
            "XNOR-Net's ResNet18 in PyTorch; "
            f"got {values.against!r}"
        )
    if values.against and values.grow:
        raise UserError("--grow measures our step alone; leave out --against")
    if values.grow:
        return grow.benchmark(run, **sizes)
    if values.against == "torch":
        return against_torch.benchmark(run, **sizes)
    return step.benchmark(run, **sizes, against_plain=bool(values.against))


def _benchmark_save(arguments: list[str]) -> dict:
    """Measures how long saving a checkpoint blocks the steps."""
    from bnas_jax.benchmarks import save

    command = "benchmark save"
    run, sizes, _ = _on_noise(arguments, command)
    kinds = (SearchSettings, TrainSettings)
    run = task_of(run, kind=kinds, command=command, example="configs/train.py:a")
    return save.benchmark(run, **sizes)


def _benchmark_packed(arguments: list[str]) -> dict:
    """Measures a packed network and its float twin."""
    from bnas_jax.benchmarks import packed

    command = "benchmark packed"
    run, sizes, values = _on_noise(arguments, command, batch_size=None)
    run = task_of(
        run, kind=TrainSettings, command=command, example="configs/train.py:a"
    )
    batch_size = number(values, "batch_size", kind=int, least=1) or 1
    return packed.benchmark(run, **sizes, batch_size=batch_size)


def _on_noise(
    arguments: list[str], command: str, **options: str | bool | None
) -> tuple[Settings | None, dict[str, int], flags.FlagValues]:
    """(settings, sizes, flags) of a benchmark on random images.

    sizes has "image_size", "num_classes" and "repeats". Each is the value of its
    option, or else of a setting, or else a default.

    options: the names and defaults of flags that only this benchmark has.
    """
    run, values = configured(
        arguments, command, image_size=None, num_classes=None, repeats=None, **options
    )

    # Random images have 3 channels.
    if run is not None and run.dataset.channels == 1:
        raise UserError(
            f"{command} makes images of 3 channels: leave config.dataset.channels out"
        )

    # The setting overrides the defaults, and the options override both.
    sizes = {"image_size": 32, "num_classes": 10, "repeats": 5}
    if run is not None and run.dataset.image_size is not None:
        sizes["image_size"] = run.dataset.image_size
    for name in sizes:
        sizes[name] = number(values, name, kind=int, least=1) or sizes[name]
    return run, sizes, values


# The word after `benchmark` -> the function that runs it.
BENCHMARKS: dict[str, Callable[[list[str]], dict]] = {
    "data": _benchmark_data,
    "search": functools.partial(_benchmark_step, SearchSettings),
    "train": functools.partial(_benchmark_step, TrainSettings),
    "save": _benchmark_save,
    "packed": _benchmark_packed,
}
