"""Settings: a ConfigDict, as configs/*.py make it, becomes frozen dataclasses, and every value is checked on the way.

A setting left at None takes the value of its convention: `config.paper` and `config.release` hold what differs between the
paper's text and its code, and `config.conventions` chooses. What the command line sets stands above both.
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from bnas_jax.core import genotype as genotype_lib
from bnas_jax.core.binarize import WEIGHT_GRADIENTS
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import FORMS, LAYER_TYPES, LEARNABLE, Genotype
from bnas_jax.core.rules import PAPER, REDUCTION_SKIPS, RELEASE, Rules

CONVENTION_RULES = {"paper": PAPER, "release": RELEASE}
CONVENTIONS = tuple(CONVENTION_RULES)
PRECISIONS = ("float32", "bfloat16", "float64")
PARALLEL = ("auto", "none", "pmap", "shard_map")
HALVES = ("auto", "one", "two")
SCHEDULES = ("one_cycle", "cosine_restarts", "cosine")
SELECT = ("best", "last")


@dataclasses.dataclass(frozen=True)
class DatasetSettings:
    """name: see `data.load`. path: where its files are. None takes the data set's own.

    pad, flip, min_area, jitter: the augmentation, see `data.augment`. image_size: side to which images are brought; resize:
    side of which it is the centre. channels: 1 or 3. split: share of a folder of classes that becomes the test set, drawn by
    split_seed, whatever the run's seed. in_memory_mib: larger sets are streamed. stratified: a search halves each class.
    bad_images: those that do not decode are an error (fail) or left out and counted (skip). workers: processes that read.
    """

    name: str
    path: str | None = None
    pad: int | None = None
    flip: bool | None = None
    min_area: float | None = None
    jitter: tuple[float, ...] | None = None
    image_size: int | None = None
    resize: int | None = None
    channels: int | None = None
    split: float | None = None
    split_seed: int = 0
    in_memory_mib: int | None = None
    stratified: bool = False
    bad_images: str = "fail"
    workers: int = 0

    def __post_init__(self):
        _require(self.pad is None or self.pad >= 0, f"config.dataset.pad must be 0 or more pixels, got {self.pad}")
        at_least = {"image_size": 1, "resize": self.image_size or 1, "in_memory_mib": 0, "split_seed": 0, "workers": 0}
        for name, least in at_least.items():
            value = getattr(self, name)
            _require(value is None or value >= least, f"config.dataset.{name} must be at least {least}, got {value}")
        _choice("config.dataset.channels", self.channels, (None, 1, 3))
        _choice("config.dataset.bad_images", self.bad_images, ("fail", "skip"))
        _require(self.split is None or 0 < self.split < 1, f"config.dataset.split must be between 0 and 1, got {self.split}")
        sized = self.image_size is not None or self.name == "imagenet2012"
        _require(self.resize is None or sized, "config.dataset.resize needs config.dataset.image_size, its centre")


@dataclasses.dataclass(frozen=True)
class RuleSettings:
    """The differences between the conventions that concern layers, each a setting of its own; see `core.rules.Rules`."""

    activation_scale: bool
    sign_of_zero: int
    weight_gradient: str
    reduction_skip: str
    relu: bool
    float_head: bool
    binary_search_preprocess: bool

    def __post_init__(self):
        _choice("config.rules.sign_of_zero", self.sign_of_zero, (0, 1))
        _choice("config.rules.weight_gradient", self.weight_gradient, tuple(WEIGHT_GRADIENTS))
        _choice("config.rules.reduction_skip", self.reduction_skip, REDUCTION_SKIPS)


@dataclasses.dataclass(frozen=True)
class CheckpointSettings:
    """keep_last, keep_best: how many checkpoints stay on disk."""

    keep_last: int = 2
    keep_best: int = 1

    def __post_init__(self):
        _require(self.keep_last >= 1, f"config.checkpoint.keep_last must be at least 1, got {self.keep_last}")
        _require(self.keep_best >= 0, f"config.checkpoint.keep_best must be at least 0, got {self.keep_best}")


@dataclasses.dataclass(frozen=True)
class DistributedSettings:
    """A run of several processes. coordinator: HOST:PORT of the first one, num_processes: how many, process_id: which one this
    is. All None: as Slurm, MPI, GKE or a TPU slice say, else one process; num_processes 1: one process even there.
    timeout_seconds: how long to wait for the others, at the start and in a step.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    timeout_seconds: int = 600

    def __post_init__(self):
        prefix = "config.distributed"
        _require(self.timeout_seconds >= 1, f"{prefix}.timeout_seconds must be at least 1, got {self.timeout_seconds}")
        number, index = self.num_processes, self.process_id
        _require(number is None or number >= 1, f"{prefix}.num_processes must be at least 1, got {number}")
        if number == 1:
            return
        together = f"{prefix}.coordinator, num_processes and process_id belong together: give all three or none"
        _require((self.coordinator is None) == (number is None) == (index is None), together)
        if self.coordinator is None or number is None or index is None:
            return
        port = self.coordinator.rpartition(":")
        _require(port[0] and port[2].isdigit(), f"{prefix}.coordinator must be HOST:PORT, got {self.coordinator!r}")
        _require(0 <= index < number, f"{prefix}.process_id must be from 0 to {number - 1}, got {index}")


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """What search and training have in common.

    batch_size: over all devices. microbatches: parts of it that go through the network one after the other, their gradients
    averaged; batch norm sees one part at a time. sync_bn: batch norm over all devices, instead of over each one's examples.
    steps_per_call: steps that one call makes on the device; several save GPUs and TPUs some waiting, and make a CPU slower.
    """

    task: str
    seed: int
    conventions: str
    precision: str
    parallel: str
    sync_bn: bool
    num_epochs: int
    batch_size: int
    eval_batch_size: int
    microbatches: int
    steps_per_call: int
    log_every_steps: int
    checkpoint_every_steps: int | None
    checkpoint_every_minutes: float | None
    checkpoint: CheckpointSettings
    distributed: DistributedSettings
    dataset: DatasetSettings
    rules: RuleSettings

    def __post_init__(self):
        _choice("config.conventions", self.conventions, CONVENTIONS)
        _choice("config.precision", self.precision, PRECISIONS)
        _choice("config.parallel", self.parallel, PARALLEL)
        _require(0 <= self.seed < 2**32, f"config.seed must be from 0 to 4294967295, got {self.seed}")
        for name in ("num_epochs", "batch_size", "eval_batch_size", "microbatches", "steps_per_call", "log_every_steps"):
            _require(getattr(self, name) >= 1, f"config.{name} must be at least 1, got {getattr(self, name)}")
        every = self.checkpoint_every_steps
        _require(every is None or every >= 1, f"config.checkpoint_every_steps must be at least 1 or None, got {every}")

        minutes = self.checkpoint_every_minutes
        _require(minutes is None or minutes > 0, f"config.checkpoint_every_minutes must be greater than 0, got {minutes}")

    def layer_rules(self, axis: str | None = None) -> Rules:
        """The rules that layers follow, in the arithmetic of `precision`. axis: that of the devices which share a batch."""
        dtype = jnp.float64 if self.precision == "float64" else jnp.float32
        conv_dtype = jnp.bfloat16 if self.precision == "bfloat16" else None
        rules = Rules(**dataclasses.asdict(self.rules), dtype=dtype, conv_dtype=conv_dtype)
        return dataclasses.replace(rules, bn_axis=axis if self.sync_bn else None, batch_axis=axis)


@dataclasses.dataclass(frozen=True)
class SearchNetworkSettings:
    """The supernet (section 5.1). layer_types: the set of Table 3, or a part of it that keeps its order."""

    num_cells: int
    channels: int
    skip: bool
    layer_types: tuple[str, ...]

    def __post_init__(self):
        _positive("config.network", self, "num_cells", "channels")
        unknown = [t for t in self.layer_types if t not in LAYER_TYPES]
        _require(not unknown, f"config.network.layer_types: unknown {unknown}; known: {', '.join(LAYER_TYPES)}")
        _require(
            any(t in LEARNABLE for t in self.layer_types),
            f"config.network.layer_types needs a layer type with weights, one of {', '.join(LEARNABLE)}",
        )
        _require(len(set(self.layer_types)) == len(self.layer_types), "config.network.layer_types names a type twice")


@dataclasses.dataclass(frozen=True)
class WeightSettings:
    """SGD on the supernet's weights, cosine-annealed each epoch. clip_norm: None is the convention's, inf does not clip.

    first_epoch: where on the cosine the first epoch stands: 0, or 1 in the release, which steps its scheduler beforehand.
    """

    learning_rate: float
    min_learning_rate: float
    momentum: float
    weight_decay: float
    clip_norm: float | None
    first_epoch: int

    def __post_init__(self):
        _rates("config.weights", self, "learning_rate")
        _rates("config.weights", self, "min_learning_rate", "weight_decay", least=0)
        _shares("config.weights", self, "momentum")
        _clip("config.weights", self)
        _choice("config.weights.first_epoch", self.first_epoch, (0, 1))


@dataclasses.dataclass(frozen=True)
class AlphaSettings:
    """Adam on alpha (DARTS), with the diversity regularizer's lambda and tau (Eq. 5). diversity 0 turns that off."""

    learning_rate: float
    beta1: float
    beta2: float
    weight_decay: float
    diversity: float
    tau: float

    def __post_init__(self):
        _rates("config.alphas", self, "learning_rate")
        _rates("config.alphas", self, "weight_decay", "diversity", least=0)
        _shares("config.alphas", self, "beta1", "beta2")
        _require(self.tau > 0, f"config.alphas.tau must be greater than 0, got {self.tau}; config.alphas.diversity=0 is off")


@dataclasses.dataclass(frozen=True)
class DeriveSettings:
    """gamma: transferability (Eq. 4). keep_zeroise: keep Zeroise in the genotype (section 4.1.3)."""

    gamma: float
    keep_zeroise: bool

    def __post_init__(self):
        _require(self.gamma > 0, f"config.derive.gamma must be greater than 0, got {self.gamma}; 1 leaves Eq. 4 without effect")


@dataclasses.dataclass(frozen=True)
class SearchSettings(RunSettings):
    """select: the genotype taken, of the epoch with the best validation accuracy or of the last. alphas_as_of: alpha as it was
    `after` that epoch, or `before` it, as in the release. halves: alpha's and the weights' half of a step as `one` program or
    `two`, which agree to rounding, or `auto`, see `Devices.halves`."""

    network: SearchNetworkSettings
    weights: WeightSettings
    alphas: AlphaSettings
    derive: DeriveSettings
    select: str
    alphas_as_of: str
    halves: str = "auto"

    def __post_init__(self):
        super().__post_init__()
        _choice("config.halves", self.halves, HALVES)
        _choice("config.select", self.select, SELECT)
        _choice("config.alphas_as_of", self.alphas_as_of, ("after", "before"))


@dataclasses.dataclass(frozen=True)
class TrainNetworkSettings:
    """The final network (Table 5)."""

    genotype: Genotype
    num_cells: int
    channels: int
    form: str
    skip: bool

    def __post_init__(self):
        _choice("config.network.form", self.form, FORMS)
        _positive("config.network", self, "num_cells", "channels")
        odd = self.form == "imagenet" and self.channels % 2
        _require(not odd, f"the ImageNet stem halves config.network.channels; use an even number, got {self.channels}")


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """SGD on the final network's weights.

    schedule: one_cycle: low -> learning_rate -> low over 1 - tail of the steps, then low -> min_learning_rate; cosine_restarts:
    from learning_rate to min_learning_rate every `cycle_epochs`; cosine: the same once. momentum_low: the momentum at the
    cycle's top; None keeps `momentum`.
    """

    schedule: str
    learning_rate: float
    low_learning_rate: float
    min_learning_rate: float
    tail: float
    cycle_epochs: int
    momentum: float
    momentum_low: float | None
    weight_decay: float
    clip_norm: float | None
    label_smoothing: float
    drop_path: float

    def __post_init__(self):
        _rates("config.optimizer", self, "learning_rate")
        _rates("config.optimizer", self, "low_learning_rate", "min_learning_rate", "weight_decay", least=0)
        low = () if self.momentum_low is None else ("momentum_low",)
        _shares("config.optimizer", self, "momentum", *low, "label_smoothing", "drop_path", "tail")
        _clip("config.optimizer", self)
        _choice("config.optimizer.schedule", self.schedule, SCHEDULES)
        _require(self.cycle_epochs >= 1, f"config.optimizer.cycle_epochs must be at least 1, got {self.cycle_epochs}")


@dataclasses.dataclass(frozen=True)
class TrainSettings(RunSettings):
    network: TrainNetworkSettings
    optimizer: OptimizerSettings


Settings = SearchSettings | TrainSettings
_TASKS: dict[str, type] = {"search": SearchSettings, "train": TrainSettings}


def resolve(config: Mapping) -> dict:
    """A plain nested dict of a ConfigDict's settings, with None replaced by its convention's values and names by genotypes."""
    values = plain(config)
    conventions = values.get("conventions")
    _choice("config.conventions", conventions, CONVENTIONS)
    by_convention = {name: values.pop(name, {}) for name in CONVENTIONS}
    rules = CONVENTION_RULES[conventions]
    defaults = {f.name: getattr(rules, f.name) for f in dataclasses.fields(RuleSettings)}
    _fill(values, {"rules": defaults})
    _fill(values, by_convention[conventions])
    network = values.get("network")
    if isinstance(network, dict) and isinstance(network.get("genotype"), str):
        network["genotype"] = genotype_lib.load(network["genotype"]).to_dict()
    return values


def from_config(config: Mapping) -> Settings:
    """The settings of a ConfigDict or of a work directory's config.json; `UserError` for the first that is wrong."""
    values = resolve(config)
    task = values.get("task")
    _choice("config.task", task, tuple(_TASKS))
    return _build(_TASKS[str(task)], values, "config")


def to_dict(settings: Settings) -> dict:
    """JSON-ready values from which `from_config` makes the same settings."""
    values = dataclasses.asdict(settings)
    if isinstance(settings, TrainSettings):
        values["network"]["genotype"] = settings.network.genotype.to_dict()
    return json.loads(json.dumps(values))


# Settings that may change between the stops of one run: none of them changes a number.
_FREE = (
    *("log_every_steps", "checkpoint_every_steps", "checkpoint_every_minutes", "checkpoint", "eval_batch_size"),
    *("parallel", "halves", "steps_per_call", "distributed", "dataset.path", "dataset.workers"),
)


def field_types(cls) -> dict[str, type]:
    """The type of each field of a settings dataclass, None aside."""
    return {name: _plain_type(hint) for name, hint in typing.get_type_hints(cls).items()}


def _plain_type(hint) -> type:
    if isinstance(hint, types.UnionType):
        hint = next(t for t in typing.get_args(hint) if t is not type(None))
    return typing.get_origin(hint) or hint


def first_difference(ours: Mapping, theirs: Mapping, prefix: str = "") -> str | None:
    """The first setting in which two resolved configs differ, free ones aside, as `config.key is A here and B there`."""
    for key in sorted(set(ours) | set(theirs)):
        name = prefix + key
        if name in _FREE or ours.get(key) == theirs.get(key):
            continue
        if isinstance(ours.get(key), Mapping) and isinstance(theirs.get(key), Mapping):
            difference = first_difference(ours[key], theirs[key], name + ".")
            if difference:
                return difference
        else:
            return f"config.{name} is {ours.get(key)!r} now and {theirs.get(key)!r} there"
    return None


def plain(value):
    """Nested dicts of a ConfigDict or of a mapping of them."""
    if hasattr(value, "to_json"):
        return json.loads(value.to_json())
    return {k: plain(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def _fill(values: dict, defaults: Mapping, prefix: str = "config.") -> None:
    """Replaces None and absent values by the defaults, in place."""
    for key, default in defaults.items():
        if isinstance(default, Mapping):
            inner = values.setdefault(key, {})
            _require(isinstance(inner, dict), f"{prefix}{key} must hold settings, got {inner!r}")
            _fill(inner, default, f"{prefix}{key}.")
        elif values.get(key) is None:
            values[key] = default


def _build(cls, values: Any, name: str):
    """An instance of a settings dataclass from nested dicts; the names and types of its fields decide what is accepted."""
    _require(isinstance(values, Mapping), f"{name} must hold settings, got {values!r}")
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls)}
    for key in values:
        _require(key in known, f"unknown setting {name}.{key}; known here: {', '.join(sorted(known))}")
    built = {}
    for key, field in known.items():
        if key in values:
            built[key] = _convert(hints[key], values[key], f"{name}.{key}")
        else:
            has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
            _require(has_default, f"{name}.{key} is missing")
    return cls(**built)


def _convert(hint, value, name: str):
    if isinstance(hint, types.UnionType):
        if value is None and type(None) in typing.get_args(hint):
            return None
        hint = next(t for t in typing.get_args(hint) if t is not type(None))
    if hint is Genotype:
        _require(value is not None, f"{name} is missing; write a named cell or the genotype.json of a search")
        _require(value is not None, f"{name} is missing; name a cell or give a search's genotype.json")
        return genotype_lib.from_dict(value)
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, name)
    if typing.get_origin(hint) is tuple:
        _require(isinstance(value, (list, tuple)), f"{name} must be a list, got {value!r}")
        return tuple(_convert(typing.get_args(hint)[0], item, name) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    _require(type(value) is hint, f"{name} must be of type {hint.__name__}, got {value!r}")
    return value


def _require(condition, message: str) -> None:
    if not condition:
        raise UserError(message)


def _choice(name: str, value, choices: tuple) -> None:
    _require(value in choices, f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")


def _positive(prefix: str, settings, *names: str) -> None:
    for name in names:
        _require(getattr(settings, name) >= 1, f"{prefix}.{name} must be at least 1, got {getattr(settings, name)}")


def _rates(prefix: str, settings, *names: str, least: float | None = None) -> None:
    """Finite numbers above 0, or from `least` on."""
    for name in names:
        value = getattr(settings, name)
        fits = value > 0 if least is None else value >= least
        wanted = "greater than 0" if least is None else f"at least {least}"
        _require(fits and math.isfinite(value), f"{prefix}.{name} must be a finite number {wanted}, got {value}")


def _shares(prefix: str, settings, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        _require(0 <= value < 1, f"{prefix}.{name} must be from 0 to below 1, got {value}")


def _clip(prefix: str, settings) -> None:
    clip = settings.clip_norm
    _require(clip is None or clip > 0, f"{prefix}.clip_norm must be greater than 0 or None, got {clip}")
