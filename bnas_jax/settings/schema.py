"""The settings of a run, each written once, with its check: frozen dataclasses that `resolve.from_config` makes.

A scheme, a searcher and a network bring their own settings: they are entries of tables, see `entries`.
"""

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.cell import REDUCTION_SKIPS, check_groups
from bnas_jax.core.conventions import CONVENTIONS
from bnas_jax.core.errors import UserError
from bnas_jax.core.forms import form_of
from bnas_jax.core.layers import LAYERS
from bnas_jax.core.networks import NetworkSettings
from bnas_jax.core.schemes import Scheme
from bnas_jax.core.supernet import FORMS_OF_EDGES, Supernet
from bnas_jax.search import Searcher
from bnas_jax.settings.checks import choice, clipping, positive, rates, require, shares
from bnas_jax.settings.recipes import NO_RECIPE

PRECISIONS = ("float32", "bfloat16", "float64")
MATMUL_PRECISIONS = ("default", "high", "highest")
PARALLEL = ("auto", "none", "pmap", "shard_map")
SPLITS = ("random", "stratified", "in_order")
OPTIMIZERS = ("sgd", "adam")
SCHEDULES = ("one_cycle", "cosine_restarts", "cosine", "linear", "steps")
DECAYED = ("all", "kernels")
SELECT = ("best", "last")
AS_OF = ("after", "before")


# Settings of config.dataset that have no effect on a data set: it has a size, or a test set, of its own.
_SPLIT = ("split", "split_seed")
_READING = (
    "min_area",
    "image_size",
    "resize",
    "channels",
    "white_level",
    "in_memory_mib",
    "bad_images",
    "workers",
)
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

    mean, std: of each channel, on the scale 0 to 1, by which images are normalised; both or none. pad, flip, min_area,
    jitter, cutout: the augmentation, see `data.augment`. image_size: side to which images are brought; resize: side of
    which it is the centre. channels: 1 or 3. split: share of a set without test images that becomes its test set, drawn by
    split_seed, whatever the run's seed. white_level: the number that is white in images of more than 8 bits, see
    `data.images`. in_memory_mib: larger sets are streamed. search_split: the halves of a search, drawn at `random`,
    `stratified` so that each class is halved, or the first and the second half `in_order`. augment_validation: a search
    augments the images that its epochs are validated on, too. bad_images: those that cannot be read are an error (fail) or
    left out and counted (skip). workers: processes that read. What has no effect on the data set is refused, see
    `WITHOUT_EFFECT`.
    """

    name: str
    path: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    pad: int | None = None
    flip: bool | None = None
    min_area: float | None = None
    jitter: tuple[float, ...] | None = None
    cutout: int | None = None
    image_size: int | None = None
    resize: int | None = None
    channels: int | None = None
    white_level: float | None = None
    split: float | None = None
    split_seed: int = 0
    in_memory_mib: int | None = None
    search_split: str = "random"
    augment_validation: bool = False
    bad_images: str = "fail"
    workers: int = 0

    def __post_init__(self):
        self._check_effect()
        for name in ("pad", "cutout"):
            pixels = getattr(self, name)
            require(
                pixels is None or pixels >= 0,
                f"config.dataset.{name} must be 0 or more pixels, got {pixels}",
            )
        at_least = {
            "image_size": 1,
            "resize": self.image_size or 1,
            "in_memory_mib": 0,
            "split_seed": 0,
            "workers": 0,
        }
        for name, least in at_least.items():
            value = getattr(self, name)
            require(
                value is None or value >= least,
                f"config.dataset.{name} must be at least {least}, got {value}",
            )
        choice("config.dataset.channels", self.channels, (None, 1, 3))
        choice("config.dataset.search_split", self.search_split, SPLITS)
        choice("config.dataset.bad_images", self.bad_images, ("fail", "skip"))
        require(
            self.split is None or 0 < self.split < 1,
            f"config.dataset.split must be between 0 and 1, got {self.split}",
        )
        if self.mean is not None or self.std is not None:
            self._check_statistics(self.mean or (), self.std or ())
        sized = self.image_size is not None or self.name == "imagenet2012"
        require(
            self.resize is None or sized,
            "config.dataset.resize needs config.dataset.image_size, its centre",
        )
        if self.white_level is not None:
            rates("config.dataset", self, "white_level")

    @staticmethod
    def _check_statistics(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        both = "config.dataset.mean and config.dataset.std need a list of one number for each channel, such as [0.5]"
        require(mean and len(mean) == len(std), f"{both}; got {list(mean)} and {list(std)}")
        scale = "are on the scale 0 to 1 (divide by 255)"
        require(
            all(0 <= m <= 1 for m in mean),
            f"config.dataset.mean: the values {scale}, got {list(mean)}",
        )
        require(
            all(0 < s <= 1 for s in std),
            f"config.dataset.std: the values {scale} and above 0, got {list(std)}",
        )

    def _check_effect(self):
        mine = dataclasses.asdict(self)
        fitting = for_data(mine, self.name)
        for name, value in mine.items():
            message = f"config.dataset.{name} has no effect on {self.name}: leave config.dataset.{name} out"
            require(value == fitting[name], message)
        divided = self.split is not None or not self.split_seed
        require(
            divided,
            "config.dataset.split_seed has no effect without config.dataset.split: set both or none",
        )


def for_data(dataset: Mapping, name: str) -> dict:
    """The settings of one data set for another one: what has no effect on that is as it was before it was set."""
    defaults = {field.name: field.default for field in dataclasses.fields(DatasetSettings)}
    return {**dataset, **{key: defaults[key] for key in without_effect(name)}}


@dataclasses.dataclass(frozen=True)
class CheckpointSettings:
    """keep_last, keep_best: how many checkpoints stay on disk."""

    keep_last: int = 2
    keep_best: int = 1

    def __post_init__(self):
        require(
            self.keep_last >= 1,
            f"config.checkpoint.keep_last must be at least 1, got {self.keep_last}",
        )
        require(
            self.keep_best >= 0,
            f"config.checkpoint.keep_best must be at least 0, got {self.keep_best}",
        )


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
        require(
            self.timeout_seconds >= 1,
            f"{prefix}.timeout_seconds must be at least 1, got {self.timeout_seconds}",
        )
        number, index = self.num_processes, self.process_id
        require(
            number is None or number >= 1,
            f"{prefix}.num_processes must be at least 1, got {number}",
        )
        if number == 1:
            return
        together = f"{prefix}.coordinator, num_processes and process_id belong together: give all three or none"
        require((self.coordinator is None) == (number is None) == (index is None), together)
        if self.coordinator is None or number is None or index is None:
            return
        port = self.coordinator.rpartition(":")
        require(
            port[0] and port[2].isdigit(),
            f"{prefix}.coordinator must be HOST:PORT, got {self.coordinator!r}",
        )
        require(
            0 <= index < number, f"{prefix}.process_id must be from 0 to {number - 1}, got {index}"
        )


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """What search and training have in common.

    batch_size: over all devices. microbatches: parts of it that go through the network one after the other, their gradients
    averaged; batch norm sees one part at a time. sync_bn: batch norm over all devices, instead of over each one's examples.
    bn_examples: how many examples, that follow each other in the batch, it normalises together, on any number of devices; None
    without a value of the convention is all of a part.
    steps_per_call: steps that one call makes on the device; several save GPUs and TPUs some waiting, and make a CPU slower.
    matmul_precision: of products of floats, forward and in gradients, by JAX's names. `default` shortens factors of float32 to
    what the hardware multiplies fastest (bfloat16 on TPUs, TF32 on GPUs), `highest` keeps them whole; CPUs always do. Products
    of signs are exact in any of them.
    """

    task: str
    seed: int
    conventions: str
    precision: str
    matmul_precision: str
    parallel: str
    sync_bn: bool
    bn_examples: int | None
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
    scheme: Scheme

    def __post_init__(self):
        choice("config.conventions", self.conventions, tuple(CONVENTIONS))
        choice("config.precision", self.precision, PRECISIONS)
        choice("config.matmul_precision", self.matmul_precision, MATMUL_PRECISIONS)
        choice("config.parallel", self.parallel, PARALLEL)
        require(
            0 <= self.seed < 2**32, f"config.seed must be from 0 to 4294967295, got {self.seed}"
        )
        for name in (
            "num_epochs",
            "batch_size",
            "eval_batch_size",
            "microbatches",
            "steps_per_call",
            "log_every_steps",
        ):
            require(
                getattr(self, name) >= 1,
                f"config.{name} must be at least 1, got {getattr(self, name)}",
            )
        self._check_bn_examples()
        every = self.checkpoint_every_steps
        require(
            every is None or every >= 1,
            f"config.checkpoint_every_steps must be at least 1 or None, got {every}",
        )

        minutes = self.checkpoint_every_minutes
        require(
            minutes is None or minutes > 0,
            f"config.checkpoint_every_minutes must be greater than 0, got {minutes}",
        )

    def _check_bn_examples(self) -> None:
        """Groups divide a microbatch. A batch that is not made of whole ones is refused by `Devices.check_batch`."""
        group, part = self.bn_examples, self.batch_size // self.microbatches
        if group is None or self.batch_size % self.microbatches:
            return
        require(group >= 1, f"config.bn_examples must be at least 1, got {group}")
        require(
            self.sync_bn,
            f"config.bn_examples={group} is of examples on all devices: write config.sync_bn=True",
        )
        of_batch = (
            "config.batch_size / config.microbatches"
            if self.microbatches > 1
            else "config.batch_size"
        )
        message = f"config.bn_examples={group} must divide {of_batch} = {part}; write {part} for all of them"
        require(part % group == 0, message)

    def arithmetic(self, axis: str | None = None) -> Arithmetic:
        """How numbers are computed. axis: the mapped axis of the devices which share a batch."""
        return Arithmetic(
            dtype=jnp.float64 if self.precision == "float64" else jnp.float32,
            conv_dtype=jnp.bfloat16 if self.precision == "bfloat16" else None,
            bn_axis=axis if self.sync_bn else None,
            bn_examples=self.bn_examples,
            batch_axis=axis,
        )


@dataclasses.dataclass(frozen=True)
class SupernetSettings:
    """The supernet (section 5.1), see `core.supernet.Supernet`.

    layer_types: the search space, names of `core.layers.LAYERS`; by default Table 3. edges: `shared` or `plain`, two forms
    of one function, or `chosen`, which runs the layer of the largest weight alone, for searchers whose weights are 0 beside it.
    form: what differs beside the edges: cifar (BNAS), darts, snas, gdas. fixed_reduction: the reduction cells are the hand-made
    ones of GDAS.
    """

    num_cells: int
    channels: int
    skip: bool
    layer_types: tuple[str, ...]
    reduction_skip: str = "binary_bn"
    float_head: bool = False
    binary_preprocess: bool = False
    edges: str = "shared"
    form: str = "cifar"
    fixed_reduction: bool = False

    def __post_init__(self):
        prefix = "config.network"
        step = form_of(self.form).channel_step
        positive(prefix, self, "num_cells", "channels")
        multiple = f"a multiple of {step} in the form {self.form}"
        require(
            self.channels % step == 0, f"{prefix}.channels must be {multiple}, got {self.channels}"
        )
        if self.fixed_reduction:
            check_groups(2 * self.channels)
        unknown = [name for name in self.layer_types if name not in LAYERS]
        require(
            not unknown,
            f"{prefix}.layer_types: unknown {', '.join(unknown)}; known: {', '.join(LAYERS)}",
        )
        learnable = [name for name in LAYERS if LAYERS[name].learnable]
        require(
            any(name in learnable for name in self.layer_types),
            f"{prefix}.layer_types needs a layer type with weights, one of {', '.join(learnable)}",
        )
        require(
            len(set(self.layer_types)) == len(self.layer_types),
            f"{prefix}.layer_types names a type twice",
        )
        choice(f"{prefix}.reduction_skip", self.reduction_skip, REDUCTION_SKIPS)
        choice(f"{prefix}.edges", self.edges, FORMS_OF_EDGES)

    def build(self, *, num_classes: int, scheme: Scheme, arithmetic: Arithmetic) -> Supernet:
        """The supernet."""
        return Supernet(
            num_cells=self.num_cells,
            channels=self.channels,
            num_classes=num_classes,
            layer_types=self.layer_types,
            skip=self.skip,
            reduction_skip=self.reduction_skip,
            float_head=self.float_head,
            binary_preprocess=self.binary_preprocess,
            edges=self.edges,
            form=self.form,
            fixed_reduction=self.fixed_reduction,
            scheme=scheme,
            arithmetic=arithmetic,
        )


@dataclasses.dataclass(frozen=True)
class WeightSettings:
    """SGD on the supernet's weights, cosine-annealed each epoch. clip_norm: None is the convention's, inf does not clip.

    first_epoch: where on the cosine the first epoch lies: 0, or 1 in the release, which steps its scheduler beforehand.
    nesterov: Nesterov's momentum.
    """

    learning_rate: float
    min_learning_rate: float
    momentum: float
    weight_decay: float
    clip_norm: float | None
    first_epoch: int
    nesterov: bool = False

    def __post_init__(self):
        rates("config.weights", self, "learning_rate")
        rates("config.weights", self, "min_learning_rate", "weight_decay", least=0)
        shares("config.weights", self, "momentum")
        clipping("config.weights", self)
        choice("config.weights.first_epoch", self.first_epoch, (0, 1))


@dataclasses.dataclass(frozen=True)
class AlphaSettings:
    """Adam on alpha, with L2 regularisation (DARTS). clip_norm: to which alpha's gradient is clipped before, or None."""

    learning_rate: float
    beta1: float
    beta2: float
    weight_decay: float
    clip_norm: float | None = None

    def __post_init__(self):
        rates("config.alphas", self, "learning_rate")
        rates("config.alphas", self, "weight_decay", least=0)
        shares("config.alphas", self, "beta1", "beta2")
        clipping("config.alphas", self)


@dataclasses.dataclass(frozen=True)
class SearchSettings(RunSettings):
    """A search.

    select: the genotype taken, of the epoch with the best validation accuracy or of the last. alphas_as_of: alpha as it was
    `after` that epoch, or `before` it, as in the release. alpha_batches: `epoch`: alpha's batches go through their half of
    the data without replacement, epoch by epoch; `fresh`: each is drawn from all of it, as in the release.
    """

    network: SupernetSettings
    searcher: Searcher
    weights: WeightSettings
    alphas: AlphaSettings
    select: str
    alphas_as_of: str
    alpha_batches: str

    def __post_init__(self):
        super().__post_init__()
        choice("config.select", self.select, SELECT)
        choice("config.alphas_as_of", self.alphas_as_of, AS_OF)
        choice("config.alpha_batches", self.alpha_batches, ("epoch", "fresh"))
        searcher = self.searcher
        message = (
            "config.network.edges=chosen runs one layer an edge, and the weights of this searcher mix them: write"
            " config.network.edges=shared"
        )
        require(self.network.edges != "chosen" or searcher.one_layer, message)
        validated = searcher.has_alphas and searcher.train_share < 1
        instead = (
            ", or config.searcher.train_share=0.9, which holds a part of the data out"
            if searcher.has_alphas
            else ""
        )
        message = f"config.select=best is for searchers whose epochs are validated: write config.select=last{instead}"
        require(validated or self.select == "last", message)


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """What moves the final network's weights. name: `sgd` with momentum, or `adam`; both as in PyTorch.

    schedule: of the learning rate, one of

    - one_cycle: low -> learning_rate -> low over 1 - tail of the steps, then low -> min_learning_rate;
    - cosine: from learning_rate to min_learning_rate; cosine_restarts: the same every `cycle_epochs`;
    - linear: from learning_rate to min_learning_rate;
    - steps: learning_rate, multiplied by decay_factor at each of decay_epochs.

    schedule_by: a cosine or linear schedule changes at each `step` or each `epoch`; by epoch, first_epoch says where on it
    the first one lies: 0, or 1 where a code steps its scheduler beforehand. momentum, nesterov: of SGD; momentum_low: the
    momentum at the cycle's top, None keeps `momentum`. beta1, beta2, eps: of Adam. weight_decay: is added to the gradient;
    decayed: which parameters, see `training.optimizers.with_decay`. auxiliary_weight: of the loss at an auxiliary classifier,
    where the network has one.
    """

    schedule: str
    learning_rate: float
    name: str = "sgd"
    low_learning_rate: float = 0.0
    min_learning_rate: float = 0.0
    tail: float = 0.0
    cycle_epochs: int = 50
    decay_epochs: tuple[int, ...] = ()
    decay_factor: float = 0.1
    schedule_by: str = "step"
    first_epoch: int = 0
    momentum: float = 0.9
    momentum_low: float | None = None
    nesterov: bool = False
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    decayed: str = "all"
    clip_norm: float | None = None
    label_smoothing: float = 0.0
    drop_path: float = 0.0
    auxiliary_weight: float = 0.4

    def __post_init__(self):
        prefix = "config.optimizer"
        choice(f"{prefix}.name", self.name, OPTIMIZERS)
        choice(f"{prefix}.schedule", self.schedule, SCHEDULES)
        choice(f"{prefix}.schedule_by", self.schedule_by, ("step", "epoch"))
        choice(f"{prefix}.first_epoch", self.first_epoch, (0, 1))
        choice(f"{prefix}.decayed", self.decayed, DECAYED)
        rates(prefix, self, "learning_rate", "decay_factor", "eps")
        rates(
            prefix,
            self,
            "low_learning_rate",
            "min_learning_rate",
            "weight_decay",
            "auxiliary_weight",
            least=0,
        )
        low = () if self.momentum_low is None else ("momentum_low",)
        shares(
            prefix, self, "momentum", *low, "beta1", "beta2", "label_smoothing", "drop_path", "tail"
        )
        clipping(prefix, self)
        positive(prefix, self, "cycle_epochs")
        self._check_schedule()

    def _check_schedule(self) -> None:
        prefix = "config.optimizer"
        by_epoch = self.schedule in ("cosine", "linear")
        message = (
            f"{prefix}.schedule_by=epoch is of the schedules cosine and linear, got {self.schedule}"
        )
        require(by_epoch or self.schedule_by == "step", message)
        message = f"{prefix}.first_epoch={self.first_epoch} has no effect without {prefix}.schedule_by=epoch"
        require(not self.first_epoch or self.schedule_by == "epoch", message)
        epochs = list(self.decay_epochs)
        wanted = f"{prefix}.decay_epochs must be growing numbers from 1 on"
        require(
            epochs == sorted(set(epochs)) and min(epochs, default=1) >= 1, f"{wanted}, got {epochs}"
        )
        require(
            self.schedule != "steps" or epochs,
            f"{prefix}.schedule=steps needs {prefix}.decay_epochs, such as 60,120",
        )
        message = f"{prefix}.nesterov needs a momentum; write {prefix}.momentum=0.9"
        require(not self.nesterov or self.momentum > 0, message)


@dataclasses.dataclass(frozen=True)
class TrainSettings(RunSettings):
    """The training of a final network. network: an entry of `networks.NETWORKS`. recipe: see `recipes.RECIPES`."""

    network: NetworkSettings
    optimizer: OptimizerSettings
    recipe: str = NO_RECIPE

    def __post_init__(self):
        super().__post_init__()
        epochs = self.optimizer.decay_epochs
        if self.optimizer.schedule == "steps" and max(epochs) >= self.num_epochs:
            written = ",".join(map(str, epochs))
            raise UserError(
                f"config.optimizer.decay_epochs={written} are not all below config.num_epochs={self.num_epochs};"
                " write smaller ones, or another config.optimizer.schedule"
            )
        drops = self.network.drops_paths or self.optimizer.drop_path == 0
        require(drops, "config.optimizer.drop_path is of networks of cells; write 0 for this one")


Settings = SearchSettings | TrainSettings
TASKS: dict[str, type] = {"search": SearchSettings, "train": TrainSettings}
