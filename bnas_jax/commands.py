"""What each command of the command line does: flags in, one JSON-ready summary out."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from bnas_jax import extensions, preset_files, settings, spelling
from bnas_jax.cli import draw
from bnas_jax.cli.flags import mistakes, number, options, read_flags, required
from bnas_jax.core import paths
from bnas_jax.core.errors import UserError
from bnas_jax.extensions import Extension
from bnas_jax.settings import SearchSettings, Settings, TrainSettings, parse, template
from bnas_jax.settings.schema import SELECT

if TYPE_CHECKING:
    from bnas_jax.training.workdir import WorkDir

# What every command takes beside its arguments: the extensions that were loaded before.
Loaded = tuple[Extension, ...]

# What may be set anew for `evaluate`, beside the data: the network stays the same.
EVALUATED_ANEW = ("eval_batch_size", "precision", "matmul_precision", "parallel")


def _define_config(values: flags.FlagValues, config: ConfigDict, arguments: list[str], command: str) -> None:
    """Sets what the arguments say in `config`, the settings of a command that takes no file of them."""
    if any(a.partition("=")[0] == "--config" for a in arguments):
        raise UserError(f"{command} takes no --config=FILE; its settings are written {spelling.PREFIX}KEY=VALUE")
    flags.DEFINE_string("config", None, "KEY=VALUE behind a dot", flag_values=values)
    _override(config, arguments)


def _override(config: ConfigDict, arguments: list[str]) -> None:
    """Sets what the arguments say in `config`; a setting's old name is an error that says the new one."""
    for argument in filter(spelling.is_setting, arguments):
        name = argument.removeprefix("--no").removeprefix("--").partition("=")[0]
        parts = name.split(".")
        for end in range(len(parts), 1, -1):
            settings.refuse_old_name(".".join(parts[:end]))
    for group in template.GROUPS:
        entry = _last(arguments, f"{spelling.PREFIX}{group}.name=")
        if entry and "name" in config.get(group, ()):
            template.choose(config, group, entry)
    spelling.override(config, arguments)


def _last(arguments: list[str], prefix: str) -> str | None:
    """What stands behind the prefix in the last argument that has it."""
    return next((a.removeprefix(prefix) for a in reversed(arguments) if a.startswith(prefix)), None)


def _workdir(path: str, loaded: Loaded) -> "WorkDir":
    """A work directory, whose run was made with no extensions but those that are loaded."""
    from bnas_jax.training.workdir import WorkDir

    workdir = WorkDir(path, extensions=[extension._asdict() for extension in loaded])
    extensions.check(workdir.path, loaded)
    return workdir


def _config_arguments(arguments: list[str]) -> list[str]:
    """The arguments with --config's file found: as given, or else in the project's folder. Its imports are found, too."""
    found = list(arguments)
    for position, argument in enumerate(found):
        if argument.startswith("--config="):
            given = argument.removeprefix("--config=")
            paths.local(given, "--config")  # refuses an address, which has a colon of its own
            name, _, variant = given.partition(":")
            path = preset_files.find(name, "--config", "configs/search.py:VARIANT or configs/train.py:VARIANT")
            found[position] = f"--config={path}" + (f":{variant}" if variant else "")
    return found


def _configured(arguments: list[str], command: str, **options: str | bool | None) -> tuple[Settings | None, flags.FlagValues]:
    """(settings of --config, None without one; the flags). options: names of flags to their defaults; strings unless bool."""
    values = flags.FlagValues()
    arguments = _config_arguments(arguments)
    config_flags.DEFINE_config_file("config", None, "FILE.py:VARIANT", flag_values=values, sys_argv=[command])
    for name, default in options.items():
        define: Callable = flags.DEFINE_boolean if isinstance(default, bool) else flags.DEFINE_string
        define(name, default, name, flag_values=values)
    read_flags(values, arguments, command)
    if values.config is None:
        _refuse_settings(arguments)
        return None, values
    with mistakes():
        _override(values.config, arguments)
    return settings.from_config(values.config), values


def _refuse_settings(arguments: list[str]) -> None:
    for argument in filter(spelling.is_setting, arguments):
        raise UserError(f"{argument} is a setting of a config; write --config=FILE.py:VARIANT, too")


def _task(run: Settings | None, kind: type | tuple[type, ...], command: str, example: str) -> Any:
    if run is None:
        raise UserError(f"{command} needs a config; write --config={example}")
    if not isinstance(run, kind):
        raise UserError(f"this config is for {run.task}; {command} takes one such as --config={example}")
    return run


def search(arguments: list[str], loaded: Loaded) -> dict:
    """Searches a cell into a work directory."""
    run, values = _configured(arguments, "search", workdir=None, change=False)
    run = _task(run, SearchSettings, "search", "configs/search.py:digits")
    from bnas_jax.training.search import search

    with contextlib.closing(_workdir(required(values, "workdir"), loaded)) as workdir:
        found = search(run, workdir, change=values.change)
        _leave_picture(workdir)
        return found


def _leave_picture(workdir: "WorkDir") -> None:
    """cell.svg, which a search can do without: what goes wrong there is a line of its log."""
    from bnas_jax.runtime import hosts

    if not hosts.is_first():
        return
    try:
        draw.draw_found_cell(workdir.path, workdir / "cell.svg")
    except Exception as error:
        reason = " ".join(str(error).split())
        workdir.say(f"the cell is not drawn into cell.svg ({reason}); draw --genotype={workdir.path} --out=FILE.svg does that")


def derive(arguments: list[str], loaded: Loaded) -> dict:
    """Takes a genotype from the alphas of a search, by rules that default to the search's."""
    from bnas_jax.runtime import devices
    from bnas_jax.training.derive import Rule, derive

    values = flags.FlagValues()
    for name in ("workdir", "gamma", "epoch", "out"):
        flags.DEFINE_string(name, None, name, flag_values=values)
    flags.DEFINE_boolean("keep_zeroise", None, "whether Zeroise may be taken", flag_values=values)
    flags.DEFINE_enum("as_of", None, settings.AS_OF, "alpha before or after the epoch", flag_values=values)
    read_flags(values, arguments, "derive")

    workdir, out = _workdir(required(values, "workdir"), loaded), required(values, "out")
    run = settings.from_config(workdir.config())
    if not isinstance(run, SearchSettings):
        raise UserError(f"{workdir.path} holds a training; derive takes the work directory of a search")
    searcher = dataclasses.replace(run.searcher, layer_types=run.network.layer_types, **_derivation(run, values))
    devices.keep_to_host()
    rule = Rule(_epoch(values.epoch or run.select), values.as_of or run.alphas_as_of)
    return derive(searcher, workdir, rule, out=out)


def _derivation(run: SearchSettings, values: flags.FlagValues) -> dict[str, Any]:
    """The settings of the run's searcher that --gamma and --keep_zeroise give."""
    gamma = number(values, "gamma", float)
    if gamma is not None and not gamma > 0:
        raise UserError(f"--gamma must be greater than 0, got {gamma:g}; 1 leaves Eq. 4 without effect")
    given = {"gamma": gamma, "keep_zeroise": values.keep_zeroise}
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        if not hasattr(run.searcher, name):
            searcher = settings.to_dict(run)["searcher"]["name"]
            raise UserError(f"the searcher {searcher} of {values.workdir} has no {name}; leave --{name} out")
    return given


def _epoch(text: str) -> int | str:
    if text in SELECT:
        return text
    if not text.isdecimal():
        raise UserError(f"--epoch must be best, last or a number from 0 on, got {text!r}")
    return int(text)


def train(arguments: list[str], loaded: Loaded) -> dict:
    """Trains a final network into a work directory."""
    run, values = _configured(arguments, "train", workdir=None, change=False, init=None, init_step=None)
    run = _task(run, TrainSettings, "train", "configs/train.py:digits")
    from bnas_jax.training.fine_tune import Init
    from bnas_jax.training.train import train

    if values.init_step and not values.init:
        raise UserError("--init_step says which checkpoint of --init=DIR to take; write --init=DIR, too")
    init = Init(values.init, values.init_step or "last") if values.init else None
    if init:
        extensions.check(paths.local(init.workdir, "--init"), loaded)
    with contextlib.closing(_workdir(required(values, "workdir"), loaded)) as workdir:
        return train(run, workdir, change=values.change, init=init)


def evaluate(arguments: list[str], loaded: Loaded) -> dict:
    """Evaluates the checkpoint in a work directory."""
    from bnas_jax.training.evaluate import evaluate

    workdir = _workdir(_workdir_argument(arguments), loaded)
    resolved = workdir.config()
    values = flags.FlagValues()
    open_settings = ConfigDict({name: resolved.get(name) for name in EVALUATED_ANEW})
    open_settings.distributed = template.fields(settings.DistributedSettings, resolved.get("distributed"))
    dataset = _for_source(resolved.get("dataset") or {}, arguments)
    open_settings.dataset = template.fields(settings.DatasetSettings, dataset)
    _define_config(values, open_settings, arguments, "evaluate")
    flags.DEFINE_string("workdir", None, "work directory", flag_values=values)
    flags.DEFINE_string("step", "last", "best, last or a step", flag_values=values)
    read_flags(values, arguments, "evaluate")
    run = settings.from_config({**resolved, **parse.plain(open_settings)})
    return evaluate(workdir, run, values.step)


def _for_source(dataset: dict, arguments: list[str]) -> dict:
    """A run's settings of its data, as they fit the data set that the arguments name in its place."""
    name = _last(arguments, "--config.dataset.name=")
    return settings.for_data(dataset, name) if name else dataset


def _workdir_argument(arguments: list[str]) -> str:
    given = _last(arguments, "--workdir=")
    if not given:
        raise UserError("--workdir is missing; write --workdir=DIR, the directory that train wrote")
    return given


def cost(arguments: list[str], loaded: Loaded) -> dict:
    """Prints the cost of each layer of a final network, or of a search's network."""
    from bnas_jax import counting

    del loaded
    run, values = _configured(arguments, "cost", **dict.fromkeys(counting.OPTIONS))
    numbers = {name: number(values, name, int) for name in counting.SIZES}
    numbers["budget"] = number(values, "budget", float)
    texts = {name: values[name].value for name in counting.OPTIONS if name not in numbers}
    return counting.count(run, {**numbers, **texts})


def import_weights(arguments: list[str], loaded: Loaded) -> dict:
    """Brings a checkpoint of the authors' code into a work directory, in the `release` convention unless another is set."""
    from bnas_jax import counting
    from bnas_jax.interop import checkpoint_files
    from bnas_jax.interop.import_checkpoint import import_checkpoint

    preset = _last(arguments, "--preset=")
    if not preset:
        raise UserError("--preset is missing; write --preset=VARIANT, a variant of configs/train.py")
    config = _preset(preset)
    config.conventions, trained_on = "release", config.dataset.name
    values = flags.FlagValues()
    _define_config(values, config, arguments, "import")
    for name in ("preset", "checkpoint", "workdir"):
        flags.DEFINE_string(name, None, name, flag_values=values)
    read_flags(values, arguments, "import")
    run = _task(settings.from_config(config), TrainSettings, "import", "configs/train.py:d")
    with contextlib.closing(_workdir(required(values, "workdir"), loaded)) as workdir:
        arrays = checkpoint_files.read(required(values, "checkpoint"))
        sizes = {"image_size": 32, "image_channels": 3} | counting.known_sizes(run.dataset)
        shape = (sizes["image_size"], sizes["image_size"], sizes["image_channels"])
        statistics = _statistics(run.dataset, trained_on)
        return import_checkpoint(arrays, run, workdir, image_shape=shape, statistics=statistics)


def _statistics(dataset: settings.DatasetSettings, trained_on: str) -> tuple:
    """(mean, std) of an imported network's images: as set, or those of its data set, or those of its preset's."""
    from bnas_jax.data import load

    if dataset.mean is not None and dataset.std is not None:
        return dataset.mean, dataset.std
    found = load.known_statistics(dataset.name) or load.known_statistics(trained_on)
    assert found is not None, "every preset's data set is known"
    return found


def data(arguments: list[str], loaded: Loaded) -> dict:
    """Prepares, converts or checks a data set on disk."""
    from bnas_jax.data import check, convert, prepare
    from bnas_jax.data.encoded import ReadOptions

    del loaded
    actions = ("prepare", "convert", "check")
    action, *rest = arguments or [""]
    if action not in actions:
        raise UserError(f"data needs one of {', '.join(actions)} behind it, got {action!r}")
    if action == "convert":
        values = options(rest, "data convert", "source", "out")
        return convert.convert(required(values, "source"), required(values, "out"))
    if not rest or rest[0].startswith("-"):
        raise UserError(f"data {action} needs the name of a data set behind it, for instance cifar10")
    name, *rest = rest
    if action == "prepare":
        return prepare.prepare(name.removeprefix("tfds:"), options(rest, "data prepare", "out").out)
    values = options(rest, "data check", "path", "split", "white_level")
    numbers = {name: number(values, name, float) for name in ("split", "white_level")}
    dataset = settings.DatasetSettings(name, values.path, **numbers)
    return check.check(name, values.path, ReadOptions(split=dataset.split, white_level=dataset.white_level))


def benchmark(arguments: list[str], loaded: Loaded) -> dict:
    """Times parts of the package; figures as JSON."""
    del loaded
    what, *rest = arguments or [""]
    if what not in BENCHMARKS:
        raise UserError(f"benchmark needs one of {', '.join(BENCHMARKS)} behind it, got {what!r}")
    return BENCHMARKS[what](rest)


def _benchmark_data(arguments: list[str]) -> dict:
    from bnas_jax.benchmarks import data

    values = options(arguments, "benchmark data", "preset", "batch_size", "images", "repeats", "workers")
    config = _preset(values.preset or "mini")
    if values.batch_size is not None:
        config.batch_size = number(values, "batch_size", int)
    run = _task(settings.from_config(config), TrainSettings, "benchmark data", "configs/train.py:mini")
    sizes = {"images": 200, "repeats": 5, "workers": 0}
    sizes |= {name: number(values, name, int) for name in sizes if values[name].value is not None}
    return data.benchmark(run, sizes["images"], sizes["repeats"], sizes["workers"])


def _benchmark_step(kind: type, arguments: list[str]) -> dict:
    from bnas_jax.benchmarks import grow, step

    task = "search" if kind is SearchSettings else "train"
    run, sizes, values = _on_noise(arguments, f"benchmark {task}", against=None, grow=False)
    run = _task(run, kind, f"benchmark {task}", f"configs/{task}.py:" + ("cifar10" if task == "search" else "a"))
    if values.against not in (None, "plain"):
        raise UserError(f"--against takes plain, the step without what makes it fast; got {values.against!r}")
    if values.against and values.grow:
        raise UserError("--grow measures our step alone; leave out --against")
    return grow.benchmark(run, **sizes) if values.grow else step.benchmark(run, **sizes, against_plain=bool(values.against))


def _benchmark_save(arguments: list[str]) -> dict:
    from bnas_jax.benchmarks import save

    run, sizes, _ = _on_noise(arguments, "benchmark save")
    run = _task(run, (SearchSettings, TrainSettings), "benchmark save", "configs/train.py:a")
    return save.benchmark(run, **sizes)


def _on_noise(
    arguments: list[str], command: str, **options: str | bool | None
) -> tuple[Settings | None, dict[str, int], flags.FlagValues]:
    """(the settings, what else a benchmark on images of noise is told, the flags with `options` of its own)"""
    run, values = _configured(arguments, command, image_size=None, num_classes=None, repeats=None, **options)
    sizes = {"image_size": 32, "num_classes": 10, "repeats": 5}
    if run is not None and run.dataset.channels == 1:
        raise UserError(f"{command} makes images of 3 channels: leave config.dataset.channels out")
    if run is not None and run.dataset.image_size is not None:
        sizes["image_size"] = run.dataset.image_size
    return run, sizes | {name: number(values, name, int) for name in sizes if values[name].value is not None}, values


# What can be timed.
BENCHMARKS: dict[str, Callable[[list[str]], dict]] = {
    "data": _benchmark_data,
    "search": functools.partial(_benchmark_step, SearchSettings),
    "train": functools.partial(_benchmark_step, TrainSettings),
    "save": _benchmark_save,
}


def _preset(variant: str) -> ConfigDict:
    path = preset_files.find("train", "--preset", "VARIANT, a variant of configs/train.py")
    values = flags.FlagValues()
    arguments = [f"--config={path}:{variant}"]
    config_flags.DEFINE_config_file("config", None, "preset", flag_values=values, sys_argv=["import"])
    read_flags(values, arguments, "import")
    return values.config
