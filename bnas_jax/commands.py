"""What each command of the command line does: flags in, one JSON-ready summary out."""

import contextlib
import dataclasses
import functools
import pathlib
import re
import sys
from collections.abc import Callable
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_dict, config_flags

from bnas_jax import settings, spelling, typed
from bnas_jax.core import cost as cost_lib
from bnas_jax.core import genotype as genotype_lib
from bnas_jax.core import paths
from bnas_jax.core.errors import UserError
from bnas_jax.settings import SearchSettings, Settings, TrainSettings

# Image side, channels and classes of the data sets that are known by name, so that their networks are costed without them.
KNOWN_DATA = {"digits": (8, 1, 10), "cifar10": (32, 3, 10), "cifar100": (32, 3, 100), "imagenet2012": (224, 3, 1000)}

# What may be set anew for `evaluate`, beside the data: the network stays the same.
EVALUATED_ANEW = ("eval_batch_size", "precision", "matmul_precision", "parallel")

_ROOT = pathlib.Path(__file__).resolve().parent.parent


@contextlib.contextmanager
def _mistakes():
    """Every mistake in the arguments of a command, and whatever a config's file raises, is a `UserError`."""
    try:
        yield
    except flags.UnrecognizedFlagError as error:
        advice = error.args[0].partition("Did you mean")[1:]
        hint = "".join(advice) or f"a setting is written {spelling.PREFIX}KEY=VALUE"
        raise UserError(f"Unknown command line flag '{error.flagname}'; {hint}") from None
    except UserError:
        raise
    except Exception as error:
        # A config that raises is reported with its whole traceback; its last line says what is wrong.
        message = re.split(r"Traceback.*\b\w+Error: ", " ".join(str(error).split()))[-1]
        raise UserError(message or type(error).__name__) from error


def _parse(values: flags.FlagValues, arguments: list[str], command: str) -> None:
    """Reads the options of a command; settings, where it takes any, are `spelling.override`'s."""
    takes_settings = "config" in values
    others = [a for a in arguments if not (takes_settings and spelling.is_setting(a))]
    with _mistakes():
        rest = values([command, *others])[1:]
    if not rest:
        return
    position = arguments.index(rest[0])
    if position and arguments[position - 1].endswith(","):
        raise UserError(f"unexpected argument {rest[0]!r}; a list is written without spaces, or in quotes")
    if "=" in rest[0]:
        raise UserError(f"unexpected argument {rest[0]!r}; write --{rest[0]}")
    raise UserError(f"unexpected argument {rest[0]!r}; options are written --name=value")


def _define_config(values: flags.FlagValues, config: ConfigDict, arguments: list[str], command: str) -> None:
    """Sets what the arguments say in `config`, the settings of a command that takes no file of them."""
    if any(a.partition("=")[0] == "--config" for a in arguments):
        raise UserError(f"{command} takes no --config=FILE; its settings are written {spelling.PREFIX}KEY=VALUE")
    flags.DEFINE_string("config", None, "KEY=VALUE behind a dot", flag_values=values)
    _override(config, arguments)


def _override(config: ConfigDict, arguments: list[str]) -> None:
    """Sets what the arguments say in `config`; a setting's old name is an error that says the new one."""
    for argument in arguments:
        key = argument.removeprefix("--no").removeprefix("--").partition("=")[0]
        if key in settings.OLD_NAMES:
            raise UserError(f"{key} is now {settings.OLD_NAMES[key]}")
    spelling.override(config, arguments)


def _config_arguments(arguments: list[str]) -> list[str]:
    """The arguments with --config's file found: as given, or else in the project's folder. Its imports are found, too."""
    found = list(arguments)
    for position, argument in enumerate(found):
        if argument.startswith("--config="):
            given = argument.removeprefix("--config=")
            paths.local(given, "--config")  # refuses an address, which has a colon of its own
            name, _, variant = given.partition(":")
            path = paths.local(name, "--config")
            if not path.is_file():
                path = _ROOT / name
            if not path.is_file():
                raise UserError(f"no config file {name}; write --config=configs/search.py:VARIANT or configs/train.py:VARIANT")
            found[position] = f"--config={path}" + (f":{variant}" if variant else "")
            _importable(path)
    return found


def _importable(config: pathlib.Path) -> None:
    folder = str(config.resolve().parent.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)


def _configured(arguments: list[str], command: str, **options: str | bool | None) -> tuple[Settings | None, flags.FlagValues]:
    """(settings of --config, None without one; the flags). options: names of flags to their defaults; strings unless bool."""
    values = flags.FlagValues()
    arguments = _config_arguments(arguments)
    config_flags.DEFINE_config_file("config", None, "FILE.py:VARIANT", flag_values=values, sys_argv=[command])
    for name, default in options.items():
        define: Callable = flags.DEFINE_boolean if isinstance(default, bool) else flags.DEFINE_string
        define(name, default, name, flag_values=values)
    _parse(values, arguments, command)
    if values.config is None:
        _refuse_settings(arguments)
        return None, values
    with _mistakes():
        _override(values.config, arguments)
    return settings.from_config(values.config), values


def _refuse_settings(arguments: list[str]) -> None:
    for argument in filter(spelling.is_setting, arguments):
        raise UserError(f"{argument} is a setting of a config; write --config=FILE.py:VARIANT, too")


def _required(values: flags.FlagValues, name: str) -> str:
    value = values[name].value
    if not value:
        raise UserError(f"--{name} is missing; write --{name}=...")
    return str(value)


def _task(run: Settings | None, kind: type | tuple[type, ...], command: str, example: str) -> Any:
    if run is None:
        raise UserError(f"{command} needs a config; write --config={example}")
    if not isinstance(run, kind):
        raise UserError(f"this config is for {run.task}; {command} takes one such as --config={example}")
    return run


def search(arguments: list[str]) -> dict:
    """Searches a cell into a work directory."""
    run, values = _configured(arguments, "search", workdir=None, change=False)
    run = _task(run, SearchSettings, "search", "configs/search.py:digits")
    from bnas_jax.training.search import search
    from bnas_jax.training.workdir import WorkDir

    with contextlib.closing(WorkDir(_required(values, "workdir"))) as workdir:
        return search(run, workdir, change=values.change)


def derive(arguments: list[str]) -> dict:
    """Takes a genotype from the alphas of a search, by rules that default to the search's."""
    from bnas_jax.runtime import devices
    from bnas_jax.training.derive import Rule, derive
    from bnas_jax.training.search import build_searcher
    from bnas_jax.training.workdir import WorkDir

    values = flags.FlagValues()
    for name in ("workdir", "gamma", "epoch", "out"):
        flags.DEFINE_string(name, None, name, flag_values=values)
    flags.DEFINE_boolean("keep_zeroise", None, "whether Zeroise may be taken", flag_values=values)
    flags.DEFINE_enum("as_of", None, settings.AS_OF, "alpha before or after the epoch", flag_values=values)
    _parse(values, arguments, "derive")

    workdir, out = WorkDir(_required(values, "workdir")), _required(values, "out")
    run = settings.from_config(workdir.config())
    if not isinstance(run, SearchSettings):
        raise UserError(f"{workdir.path} holds a training; derive takes the work directory of a search")
    gamma = _number(values, "gamma", float)
    if gamma is not None and not gamma > 0:
        raise UserError(f"--gamma must be greater than 0, got {gamma:g}; 1 leaves Eq. 4 without effect")
    given = {"gamma": gamma, "keep_zeroise": values.keep_zeroise}
    given = {name: value for name, value in given.items() if value is not None}
    run = dataclasses.replace(run, derive=dataclasses.replace(run.derive, **given))
    devices.keep_to_host()
    rule = Rule(_epoch(values.epoch or run.select), values.as_of or run.alphas_as_of)
    return derive(run, build_searcher(run), workdir, rule, out=out)


def _epoch(text: str) -> int | str:
    if text in settings.SELECT:
        return text
    if not text.isdecimal():
        raise UserError(f"--epoch must be best, last or a number from 0 on, got {text!r}")
    return int(text)


def train(arguments: list[str]) -> dict:
    """Trains a final network into a work directory."""
    run, values = _configured(arguments, "train", workdir=None, change=False, init=None, init_step=None)
    run = _task(run, TrainSettings, "train", "configs/train.py:digits")
    from bnas_jax.training.fine_tune import Init
    from bnas_jax.training.train import train
    from bnas_jax.training.workdir import WorkDir

    if values.init_step and not values.init:
        raise UserError("--init_step says which checkpoint of --init=DIR to take; write --init=DIR, too")
    init = Init(values.init, values.init_step or "last") if values.init else None
    with contextlib.closing(WorkDir(_required(values, "workdir"))) as workdir:
        return train(run, workdir, change=values.change, init=init)


def evaluate(arguments: list[str]) -> dict:
    """Evaluates the checkpoint in a work directory."""
    from bnas_jax.training.evaluate import evaluate
    from bnas_jax.training.workdir import WorkDir

    workdir = WorkDir(_workdir_argument(arguments))
    resolved = workdir.config()
    values = flags.FlagValues()
    open_settings = ConfigDict({name: resolved.get(name) for name in EVALUATED_ANEW})
    open_settings.distributed = _typed(resolved.get("distributed") or {}, **typed.field_types(settings.DistributedSettings))
    dataset = _for_source(resolved.get("dataset") or {}, arguments)
    open_settings.dataset = _typed(dataset, **typed.field_types(settings.DatasetSettings))
    _define_config(values, open_settings, arguments, "evaluate")
    flags.DEFINE_string("workdir", None, "work directory", flag_values=values)
    flags.DEFINE_string("step", "last", "best, last or a step", flag_values=values)
    _parse(values, arguments, "evaluate")
    run = settings.from_config({**resolved, **typed.plain(open_settings)})
    return evaluate(workdir, run, values.step)


def _for_source(dataset: dict, arguments: list[str]) -> dict:
    """A run's settings of its data, as they fit the data set that the arguments name in its place."""
    prefix = "--config.dataset.name="
    named = [a.removeprefix(prefix) for a in arguments if a.startswith(prefix)]
    return settings.for_data(dataset, named[-1]) if named else dataset


def _workdir_argument(arguments: list[str]) -> str:
    given = [a.removeprefix("--workdir=") for a in arguments if a.startswith("--workdir=")]
    if not given or not given[-1]:
        raise UserError("--workdir is missing; write --workdir=DIR, the directory that train wrote")
    return given[-1]


def _typed(values: dict, **types: type) -> ConfigDict:
    """A ConfigDict in which values of None may be set, to their types alone."""
    config = ConfigDict()
    for name, kind in types.items():
        config[name] = config_dict.placeholder(kind)
        if values.get(name) is not None:
            config[name] = kind(values[name]) if kind is tuple else values[name]
    return config


def cost(arguments: list[str]) -> dict:
    """Prints the cost of each layer of a final network."""
    sizes = ("num_cells", "channels", "image_size", "num_classes", "image_channels")
    options: dict[str, str | None] = dict.fromkeys((*sizes, "genotype", "form", "conventions", "budget", "cells", "reference"))
    run, values = _configured(arguments, "cost", **options)
    numbers = {name: _number(values, name, int) for name in sizes}
    arch = _architecture(run, values, {name: value for name, value in numbers.items() if value is not None})
    reference = values.reference or (run is None and genotype_lib.without_zeroise(values.genotype)) or None
    if run is not None and not reference:
        reference = _named_without_zeroise(arch.genotype)
    if values.cells and not values.budget:
        raise UserError("--cells says among which numbers of cells --budget=FLOPS chooses; add it, or write --num_cells=...")
    if values.budget:
        arch = cost_lib.fit_budget(arch, _number(values, "budget", float), cells=_cells(values.cells))
    rows = cost_lib.layers(arch)
    total = cost_lib.total(rows)
    ratios = cost_lib.ratios(arch, genotype_lib.load(reference) if reference else None)
    print(cost_lib.table(rows))
    return {
        "num_cells": arch.num_cells,
        "channels": arch.channels,
        "flops": total.flops,
        "binary_macs": total.binary_macs,
        "float_macs": total.float_macs,
        "memory_bits": total.memory_bits,
        "params": total.params,
        "speedup": ratios.speedup,
        "memory_saving": ratios.memory_saving,
        "memory_saving_without_bn": ratios.memory_saving_without_bn,
        "compared_with": f"float network of {reference or 'the same cell'}, counted",
    }


def _number(values: flags.FlagValues, name: str, kind: type) -> Any:
    text = values[name].value
    return None if text is None else spelling.read(text, kind, f"--{name}")


def _cells(text: str | None) -> tuple[int, ...]:
    """LOW-HIGH, both included; nothing keeps the cells as they are."""
    if not text:
        return ()
    low, _, high = text.partition("-")
    if not low.isdigit() or not (high or low).isdigit() or int(high or low) < int(low):
        raise UserError(f"--cells takes LOW-HIGH, for instance 5-20, got {text!r}")
    return tuple(range(int(low), int(high or low) + 1))


def _architecture(run: Settings | None, values: flags.FlagValues, sizes: dict) -> cost_lib.Architecture:
    if run is None:
        missing = [n for n in ("num_cells", "channels", "image_size", "num_classes") if n not in sizes]
        if not values.genotype or missing:
            need = ", ".join(f"--{n}" for n in (["genotype"] if not values.genotype else []) + missing)
            raise UserError(f"cost needs --config=configs/train.py:VARIANT, or else also {need}")
        form = values.form or ("imagenet" if sizes["image_size"] > 64 else "cifar")
        rules = settings.CONVENTION_RULES.get(values.conventions or "paper")
        if rules is None:
            raise UserError(f"--conventions must be one of {', '.join(settings.CONVENTIONS)}, got {values.conventions!r}")
        return cost_lib.Architecture(genotype=genotype_lib.load(values.genotype), form=form, rules=rules, **sizes)
    net = _task(run, TrainSettings, "cost", "configs/train.py:a").network
    for name in ("form", "conventions"):
        if values[name].value is not None:
            setting = {"form": "config.network.form"}.get(name, f"config.{name}")
            raise UserError(f"--{name} is for a cost without --config; write --{setting}={values[name].value}")
    given = {**_sizes_of(run.dataset), "num_cells": net.num_cells, "channels": net.channels, **sizes}
    missing = [f"--{name}=..." for name in ("image_size", "num_classes") if name not in given]
    if missing:
        raise UserError(f"the size of {run.dataset.name} is not known here; add {' and '.join(missing)}")
    genotype = genotype_lib.load(values.genotype) if values.genotype else net.genotype
    return cost_lib.Architecture(genotype=genotype, form=net.form, skip=net.skip, rules=run.layer_rules(), **given)


def _sizes_of(dataset: settings.DatasetSettings) -> dict[str, int]:
    """image_size, image_channels and num_classes as far as they are known without the data: what is set comes first."""
    names = ("image_size", "image_channels", "num_classes")
    known = dict(zip(names, KNOWN_DATA.get(dataset.name, ()), strict=False))
    given = {"image_size": dataset.image_size, "image_channels": dataset.channels}
    return known | {name: value for name, value in given.items() if value is not None}


def _named_without_zeroise(genotype: genotype_lib.Genotype) -> str | None:
    names = (name for name in genotype_lib.named() if genotype_lib.load(name) == genotype)
    return next((other for other in map(genotype_lib.without_zeroise, names) if other), None)


def import_weights(arguments: list[str]) -> dict:
    """Brings a checkpoint of the authors' code into a work directory, in the `release` convention unless another is set."""
    from bnas_jax.interop import checkpoint_files
    from bnas_jax.interop.import_checkpoint import import_checkpoint
    from bnas_jax.training.workdir import WorkDir

    preset = next((a.removeprefix("--preset=") for a in arguments if a.startswith("--preset=")), "")
    if not preset:
        raise UserError("--preset is missing; write --preset=VARIANT, a variant of configs/train.py")
    config = _preset(preset)
    config.conventions, trained_on = "release", config.dataset.name
    values = flags.FlagValues()
    _define_config(values, config, arguments, "import")
    for name in ("preset", "checkpoint", "workdir"):
        flags.DEFINE_string(name, None, name, flag_values=values)
    _parse(values, arguments, "import")
    run = _task(settings.from_config(config), TrainSettings, "import", "configs/train.py:d")
    with contextlib.closing(WorkDir(_required(values, "workdir"))) as workdir:
        arrays = checkpoint_files.read(_required(values, "checkpoint"))
        sizes = {"image_size": 32, "image_channels": 3} | _sizes_of(run.dataset)
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


def data(arguments: list[str]) -> dict:
    """Prepares, converts or checks a data set on disk."""
    from bnas_jax.data import check, convert, prepare
    from bnas_jax.data.encoded import ReadOptions

    actions = ("prepare", "convert", "check")
    action, *rest = arguments or [""]
    if action not in actions:
        raise UserError(f"data needs one of {', '.join(actions)} behind it, got {action!r}")
    if action == "convert":
        values = _options(rest, "data convert", "source", "out")
        return convert.convert(_required(values, "source"), _required(values, "out"))
    if not rest or rest[0].startswith("-"):
        raise UserError(f"data {action} needs the name of a data set behind it, for instance cifar10")
    name, *rest = rest
    if action == "prepare":
        return prepare.prepare(name.removeprefix("tfds:"), _options(rest, "data prepare", "out").out)
    values = _options(rest, "data check", "path", "split", "white_level")
    numbers = {name: _number(values, name, float) for name in ("split", "white_level")}
    dataset = settings.DatasetSettings(name, values.path, **numbers)
    return check.check(name, values.path, ReadOptions(split=dataset.split, white_level=dataset.white_level))


def benchmark(arguments: list[str]) -> dict:
    """Times parts of the package; figures as JSON."""
    what, *rest = arguments or [""]
    if what not in BENCHMARKS:
        raise UserError(f"benchmark needs one of {', '.join(BENCHMARKS)} behind it, got {what!r}")
    return BENCHMARKS[what](rest)


def _benchmark_data(arguments: list[str]) -> dict:
    from bnas_jax.benchmarks import data

    values = _options(arguments, "benchmark data", "preset", "batch_size", "images", "repeats", "workers")
    config = _preset(values.preset or "mini")
    sizes = {"batch_size": config.batch_size, "images": 200, "repeats": 5, "workers": 0}
    sizes |= {name: _number(values, name, int) for name in sizes if values[name].value is not None}
    config.batch_size = sizes["batch_size"]
    run = _task(settings.from_config(config), TrainSettings, "benchmark data", "configs/train.py:mini")
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
    return run, sizes | {name: _number(values, name, int) for name in sizes if values[name].value is not None}, values


# What can be timed.
BENCHMARKS: dict[str, Callable[[list[str]], dict]] = {
    "data": _benchmark_data,
    "search": functools.partial(_benchmark_step, SearchSettings),
    "train": functools.partial(_benchmark_step, TrainSettings),
    "save": _benchmark_save,
}


def _options(arguments: list[str], command: str, *names: str) -> flags.FlagValues:
    """The flags of a command that takes strings alone."""
    values = flags.FlagValues()
    for name in names:
        flags.DEFINE_string(name, None, name, flag_values=values)
    _parse(values, arguments, command)
    return values


def _preset(variant: str) -> ConfigDict:
    path = _ROOT / "configs" / "train.py"
    if not path.is_file():
        raise UserError("the presets of configs/ are not installed with the package; run import in the project's folder")
    values = flags.FlagValues()
    arguments = [f"--config={path}:{variant}"]
    config_flags.DEFINE_config_file("config", None, "preset", flag_values=values, sys_argv=["import"])
    _importable(path)
    _parse(values, arguments, "import")
    return values.config
