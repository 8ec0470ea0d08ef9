"""The settings that searches and trainings have in common."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.checks import choice, positive, require
from bnas_jax.core.conventions import CONVENTIONS
from bnas_jax.core.schemes import Scheme
from bnas_jax.settings.dataset import DatasetSettings

PRECISIONS = ("float32", "bfloat16", "float64")
MATMUL_PRECISIONS = ("default", "high", "highest")
PARALLEL = ("auto", "none", "pmap", "shard_map")


@dataclasses.dataclass(frozen=True)
class CheckpointSettings:
    """How many of the last and of the most accurate checkpoints are kept."""

    keep_last: int = 2
    keep_best: int = 1

    def __post_init__(self):
        prefix = "config.checkpoint"
        # A run continues from its last checkpoint.
        positive(prefix, self, "keep_last")
        message = f"{prefix}.keep_best must be at least 0, got {self.keep_best}"
        require(self.keep_best >= 0, message)


@dataclasses.dataclass(frozen=True)
class DistributedSettings:
    """How the processes of a run find each other.

    By default the run has all processes that Slurm, MPI, GKE or a TPU slice started, or
    else one. num_processes=1 means one process even there.
    """

    # Set the next three together, or none of them.

    # HOST:PORT of the first process.
    coordinator: str | None = None
    # The number of processes.
    num_processes: int | None = None
    # The index of this process, from 0.
    process_id: int | None = None

    # The longest wait for the other processes, at the start and in a step.
    timeout_seconds: int = 600

    def __post_init__(self):
        prefix = "config.distributed"
        positive(prefix, self, "timeout_seconds")
        number, index = self.num_processes, self.process_id
        if number is not None:
            positive(prefix, self, "num_processes")
        if number == 1:
            return

        # All three settings or none.
        message = (
            f"{prefix}.coordinator, num_processes and process_id belong together: give "
            "all three or none"
        )
        together = (self.coordinator is None) == (number is None) == (index is None)
        require(together, message)
        if self.coordinator is None or number is None or index is None:
            return

        # The address, and the index among the processes.
        host, _, port = self.coordinator.rpartition(":")
        message = f"{prefix}.coordinator must be HOST:PORT, got {self.coordinator!r}"
        require(host and port.isdigit(), message)
        message = f"{prefix}.process_id must be from 0 to {number - 1}, got {index}"
        require(0 <= index < number, message)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSettings:
    """The settings that searches and trainings have in common."""

    # `search` or `train`, see `schema.TASKS`.
    task: str
    # The seed of all random numbers of the run. The test set that `dataset.split` draws
    # has a seed of its own.
    seed: int = 0
    # Whose details to follow: `paper`, `release` or `meant`, see `core.conventions`.
    conventions: str = "paper"

    # The floating-point type. With bfloat16, only convolutions have this type.
    precision: str = "float32"
    # JAX's precision of float32 products, forward and backward. `default` rounds the
    # factors to what the hardware multiplies fastest (bfloat16 on TPUs, TF32 on GPUs);
    # `highest` does not round. CPUs never round, and products of signs are always
    # exact.
    matmul_precision: str = "highest"

    # How steps run on several devices, see `runtime.devices.choose`.
    parallel: str = "auto"
    # Whether batch norm normalises over the examples of all devices, or over those of
    # each device separately.
    sync_bn: bool = True
    # The number of consecutive examples that batch norm normalises together, on any
    # number of devices. None: the convention's number, else the whole microbatch.
    bn_examples: int | None = None

    num_epochs: int
    # The number of examples in a step, over all devices.
    batch_size: int
    eval_batch_size: int = 256
    # The number of parts of a batch. The parts go through the network one after the
    # other, and their gradients are averaged; batch norm normalises each part by
    # itself.
    microbatches: int = 1
    # The number of steps in one call of a compiled program. More than one saves waiting
    # on GPUs and TPUs, and is slower on CPUs.
    steps_per_call: int = 1

    # The number of steps between two checks that the loss is finite.
    log_every_steps: int = 100
    # When a checkpoint is saved within an epoch; None saves only at its end.
    checkpoint_every_steps: int | None = None
    checkpoint_every_minutes: float | None = None

    checkpoint: CheckpointSettings = dataclasses.field(
        default_factory=CheckpointSettings
    )
    distributed: DistributedSettings = dataclasses.field(
        default_factory=DistributedSettings
    )
    dataset: DatasetSettings = dataclasses.field(default_factory=DatasetSettings)
    scheme: Scheme

    def __post_init__(self):
        choice("config.conventions", self.conventions, choices=CONVENTIONS)
        choice("config.precision", self.precision, choices=PRECISIONS)
        products = self.matmul_precision
        choice("config.matmul_precision", products, choices=MATMUL_PRECISIONS)
        choice("config.parallel", self.parallel, choices=PARALLEL)

        # Numbers.
        message = f"config.seed must be from 0 to 4294967295, got {self.seed}"
        require(0 <= self.seed < 2**32, message)
        positive(
            "config",
            self,
            "num_epochs",
            "batch_size",
            "eval_batch_size",
            "microbatches",
            "steps_per_call",
            "log_every_steps",
        )
        self._check_bn_examples()

        # How often checkpoints are saved.
        every = self.checkpoint_every_steps
        message = (
            f"config.checkpoint_every_steps must be at least 1 or None, got {every}"
        )
        require(every is None or every >= 1, message)
        minutes = self.checkpoint_every_minutes
        message = (
            f"config.checkpoint_every_minutes must be greater than 0, got {minutes}"
        )
        require(minutes is None or minutes > 0, message)

    def _check_bn_examples(self) -> None:
        """Raises `UserError` unless `bn_examples` divides the size of a microbatch.

        `Devices.check_batch` refuses a batch that `microbatches` does not divide.
        """
        # A microbatch has `part` examples.
        group, part = self.bn_examples, self.batch_size // self.microbatches
        if group is None or self.batch_size % self.microbatches:
            return
        positive("config", self, "bn_examples")
        message = (
            f"config.bn_examples={group} is of examples on all devices: write "
            "config.sync_bn=True"
        )
        require(self.sync_bn, message)

        # The number that it divides.
        of_batch = "config.batch_size"
        if self.microbatches > 1:
            of_batch = "config.batch_size / config.microbatches"
        message = (
            f"config.bn_examples={group} must divide {of_batch} = {part}; write {part} "
            "for all of them"
        )
        require(part % group == 0, message)

    def arithmetic(self, axis: str | None = None) -> Arithmetic:
        """The floating-point types and the batch norm of the run's models.

        axis: the name of the mapped axis of the devices that share a batch; None for
            one device.
        """
        dtype: Any = jnp.float32
        if self.precision == "float64":
            dtype = jnp.float64

        # With bfloat16, statistics, losses and updates stay float32.
        conv_dtype: Any = None
        if self.precision == "bfloat16":
            conv_dtype = jnp.bfloat16

        # Without an axis, each device has batch statistics of its own.
        bn_axis = None
        if self.sync_bn:
            bn_axis = axis
        return Arithmetic(
            dtype=dtype,
            conv_dtype=conv_dtype,
            bn_axis=bn_axis,
            bn_examples=self.bn_examples,
            batch_axis=axis,
        )
