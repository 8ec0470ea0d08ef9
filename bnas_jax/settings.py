"""Settings: a ConfigDict, as configs/*.py make it, becomes frozen dataclasses, and every value is checked on the way.

A setting left at None takes the value of its convention: `config.paper` and `config.release` hold what differs between the
paper's text and its code, and `config.conventions` chooses. What the command line sets stands above both.
"""

import dataclasses
import json
from collections.abc import Mapping

import jax.numpy as jnp

from bnas_jax.checks import choice, clipping, positive, rates, require, shares
from bnas_jax.core import genotype as genotype_lib
from bnas_jax.core.binarize import WEIGHT_GRADIENTS
from bnas_jax.core.genotype import FORMS, LAYER_TYPES, LEARNABLE, Genotype
from bnas_jax.core.rules import PAPER, REDUCTION_SKIPS, RELEASE, Rules
from bnas_jax.typed import build, fill, plain

CONVENTION_RULES = {"paper": PAPER, "release": RELEASE}
CONVENTIONS = tuple(CONVENTION_RULES)
PRECISIONS = ("float32", "bfloat16", "float64")
PARALLEL = ("auto", "none", "pmap", "shard_map")
HALVES = ("auto", "one", "two")
SCHEDULES = ("one_cycle", "cosine_restarts", "cosine")
SELECT = ("best", "last")


# Settings of config.dataset that have no effect on a data set: it has a size, or a test set, of its own.
_SPLIT = ("split", "split_seed")
_READING = ("min_area", "image_size", "resize", "channels", "white_level", "in_memory_mib", "bad_images", "workers")
WITHOUT_EFFECT = {
    "digits": ("path", *_SPLIT, *_READING),
    "cifar10": (*_SPLIT, "white_level"),
    "cifar100": (*_SPLIT, "white_level"),
    "imagenet2012": (*_SPLIT, "white_level"),
    "tfds:": ("white_level",),  # images of 8 bits
    "folder": (),
}


def without_effect(name: str) -> tuple[str, ...]:
    """The settings of config.dataset that have no effect on the data set of a name."""
    return WITHOUT_EFFECT.get("tfds:" if name.startswith("tfds:") else name, ())


@dataclasses.dataclass(frozen=True)
class DatasetSettings:
    """name: see `data.load`. path: where its files are. None takes the data set's own.

    pad, flip, min_area, jitter: the augmentation, see `data.augment`. image_size: side to which images are brought; resize:
    side of which it is the centre. channels: 1 or 3. split: share of a set without test images that becomes its test set, drawn
    by split_seed, whatever the run's seed. white_level: the number that is white in images of more than 8 bits, see
    `data.images`. in_memory_mib: larger sets are streamed. stratified: a search halves each class. bad_images: those that
    cannot be read are an error (fail) or left out and counted (skip). workers: processes that read. What has no effect on the
    data set is refused, see `WITHOUT_EFFECT`.
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
    white_level: float | None = None
    split: float | None = None
    split_seed: int = 0
    in_memory_mib: int | None = None
    stratified: bool = False
    bad_images: str = "fail"
    workers: int = 0

    def __post_init__(self):
        self._check_effect()
        require(self.pad is None or self.pad >= 0, f"config.dataset.pad must be 0 or more pixels, got {self.pad}")
        at_least = {"image_size": 1, "resize": self.image_size or 1, "in_memory_mib": 0, "split_seed": 0, "workers": 0}
        for name, least in at_least.items():
            value = getattr(self, name)
            require(value is None or value >= least, f"config.dataset.{name} must be at least {least}, got {value}")
        choice("config.dataset.channels", self.channels, (None, 1, 3))
        choice("config.dataset.bad_images", self.bad_images, ("fail", "skip"))
        require(self.split is None or 0 < self.split < 1, f"config.dataset.split must be between 0 and 1, got {self.split}")
        sized = self.image_size is not None or self.name == "imagenet2012"
        require(self.resize is None or sized, "config.dataset.resize needs config.dataset.image_size, its centre")
        if self.white_level is not None:
            rates("config.dataset", self, "white_level")

    def _check_effect(self):
        mine = dataclasses.asdict(self)
        fitting = for_data(mine, self.name)
        for name, value in mine.items():
            message = f"config.dataset.{name} has no effect on {self.name}: leave config.dataset.{name} out"
            require(value == fitting[name], message)
        divided = self.split is not None or not self.split_seed
        require(divided, "config.dataset.split_seed has no effect without config.dataset.split: set both or none")


def for_data(dataset: Mapping, name: str) -> dict:
    """The settings of one data set for another one: what has no effect on that is as it was before it was set."""
    defaults = {field.name: field.default for field in dataclasses.fields(DatasetSettings)}
    return {**dataset, **{key: defaults[key] for key in without_effect(name)}}


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
        choice("config.rules.sign_of_zero", self.sign_of_zero, (0, 1))
        choice("config.rules.weight_gradient", self.weight_gradient, tuple(WEIGHT_GRADIENTS))
        choice("config.rules.reduction_skip", self.reduction_skip, REDUCTION_SKIPS)


@dataclasses.dataclass(frozen=True)
class CheckpointSettings:
    """keep_last, keep_best: how many checkpoints stay on disk."""

    keep_last: int = 2
    keep_best: int = 1

    def __post_init__(self):
        require(self.keep_last >= 1, f"config.checkpoint.keep_last must be at least 1, got {self.keep_last}")
        require(self.keep_best >= 0, f"config.checkpoint.keep_best must be at least 0, got {self.keep_best}")


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
        require(self.timeout_seconds >= 1, f"{prefix}.timeout_seconds must be at least 1, got {self.timeout_seconds}")
        number, index = self.num_processes, self.process_id
        require(number is None or number >= 1, f"{prefix}.num_processes must be at least 1, got {number}")
        if number == 1:
            return
        together = f"{prefix}.coordinator, num_processes and process_id belong together: give all three or none"
        require((self.coordinator is None) == (number is None) == (index is None), together)
        if self.coordinator is None or number is None or index is None:
            return
        port = self.coordinator.rpartition(":")
        require(port[0] and port[2].isdigit(), f"{prefix}.coordinator must be HOST:PORT, got {self.coordinator!r}")
        require(0 <= index < number, f"{prefix}.process_id must be from 0 to {number - 1}, got {index}")


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
        choice("config.conventions", self.conventions, CONVENTIONS)
        choice("config.precision", self.precision, PRECISIONS)
        choice("config.parallel", self.parallel, PARALLEL)
        require(0 <= self.seed < 2**32, f"config.seed must be from 0 to 4294967295, got {self.seed}")
        for name in ("num_epochs", "batch_size", "eval_batch_size", "microbatches", "steps_per_call", "log_every_steps"):
            require(getattr(self, name) >= 1, f"config.{name} must be at least 1, got {getattr(self, name)}")
        every = self.checkpoint_every_steps
        require(every is None or every >= 1, f"config.checkpoint_every_steps must be at least 1 or None, got {every}")

        minutes = self.checkpoint_every_minutes
        require(minutes is None or minutes > 0, f"config.checkpoint_every_minutes must be greater than 0, got {minutes}")

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
        positive("config.network", self, "num_cells", "channels")
        unknown = [t for t in self.layer_types if t not in LAYER_TYPES]
        require(not unknown, f"config.network.layer_types: unknown {unknown}; known: {', '.join(LAYER_TYPES)}")
        require(
            any(t in LEARNABLE for t in self.layer_types),
            f"config.network.layer_types needs a layer type with weights, one of {', '.join(LEARNABLE)}",
        )
        require(len(set(self.layer_types)) == len(self.layer_types), "config.network.layer_types names a type twice")


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
        rates("config.weights", self, "learning_rate")
        rates("config.weights", self, "min_learning_rate", "weight_decay", least=0)
        shares("config.weights", self, "momentum")
        clipping("config.weights", self)
        choice("config.weights.first_epoch", self.first_epoch, (0, 1))


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
        rates("config.alphas", self, "learning_rate")
        rates("config.alphas", self, "weight_decay", "diversity", least=0)
        shares("config.alphas", self, "beta1", "beta2")
        require(self.tau > 0, f"config.alphas.tau must be greater than 0, got {self.tau}; config.alphas.diversity=0 is off")


@dataclasses.dataclass(frozen=True)
class DeriveSettings:
    """gamma: transferability (Eq. 4). keep_zeroise: keep Zeroise in the genotype (section 4.1.3)."""

    gamma: float
    keep_zeroise: bool

    def __post_init__(self):
        require(self.gamma > 0, f"config.derive.gamma must be greater than 0, got {self.gamma}; 1 leaves Eq. 4 without effect")


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
        choice("config.halves", self.halves, HALVES)
        choice("config.select", self.select, SELECT)
        choice("config.alphas_as_of", self.alphas_as_of, ("after", "before"))


@dataclasses.dataclass(frozen=True)
class TrainNetworkSettings:
    """The final network (Table 5)."""

    genotype: Genotype
    num_cells: int
    channels: int
    form: str
    skip: bool

    def __post_init__(self):
        choice("config.network.form", self.form, FORMS)
        positive("config.network", self, "num_cells", "channels")
        odd = self.form == "imagenet" and self.channels % 2
        require(not odd, f"the ImageNet stem halves config.network.channels; use an even number, got {self.channels}")


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
        rates("config.optimizer", self, "learning_rate")
        rates("config.optimizer", self, "low_learning_rate", "min_learning_rate", "weight_decay", least=0)
        low = () if self.momentum_low is None else ("momentum_low",)
        shares("config.optimizer", self, "momentum", *low, "label_smoothing", "drop_path", "tail")
        clipping("config.optimizer", self)
        choice("config.optimizer.schedule", self.schedule, SCHEDULES)
        require(self.cycle_epochs >= 1, f"config.optimizer.cycle_epochs must be at least 1, got {self.cycle_epochs}")


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
    choice("config.conventions", conventions, CONVENTIONS)
    by_convention = {name: values.pop(name, {}) for name in CONVENTIONS}
    rules = CONVENTION_RULES[conventions]
    defaults = {f.name: getattr(rules, f.name) for f in dataclasses.fields(RuleSettings)}
    fill(values, {"rules": defaults})
    fill(values, by_convention[conventions])
    network = values.get("network")
    if isinstance(network, dict) and isinstance(network.get("genotype"), str):
        network["genotype"] = genotype_lib.load(network["genotype"]).to_dict()
    return values


def from_config(config: Mapping) -> Settings:
    """The settings of a ConfigDict or of a work directory's config.json; `UserError` for the first that is wrong."""
    values = resolve(config)
    task = values.get("task")
    choice("config.task", task, tuple(_TASKS))
    return build(_TASKS[str(task)], values, "config")


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
