"""The settings that search and training have in common."""

import dataclasses

import jax.numpy as jnp

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.conventions import CONVENTIONS
from bnas_jax.core.schemes import Scheme
from bnas_jax.settings.checks import choice, require
from bnas_jax.settings.dataset import DatasetSettings

PRECISIONS = ("float32", "bfloat16", "float64")
MATMUL_PRECISIONS = ("default", "high", "highest")
PARALLEL = ("auto", "none", "pmap", "shard_map")


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What search and training have in common.

    conventions: paper, its text; release, the authors' code; meant, that code without its index error. precision: float32;
    bfloat16, in the products of the convolutions alone; float64, for exact checks. parallel: auto is pmap on several devices,
    else none. checkpoint_every_steps, checkpoint_every_minutes: checkpoints besides those at the end of each epoch.
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
    seed: int = 0
    conventions: str = "paper"
    precision: str = "float32"
    matmul_precision: str = "highest"
    parallel: str = "auto"
    sync_bn: bool = True
    bn_examples: int | None = None
    num_epochs: int
    batch_size: int
    eval_batch_size: int = 256
    microbatches: int = 1
    steps_per_call: int = 1
    log_every_steps: int = 100
    checkpoint_every_steps: int | None = None
    checkpoint_every_minutes: float | None = None
    checkpoint: CheckpointSettings = dataclasses.field(default_factory=CheckpointSettings)
    distributed: DistributedSettings = dataclasses.field(default_factory=DistributedSettings)
    dataset: DatasetSettings = dataclasses.field(default_factory=DatasetSettings)
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
