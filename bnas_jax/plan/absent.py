"""Devices that are not there: arrays are shapes, and steps are only compiled."""

import dataclasses
import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from bnas_jax.core.errors import UserError
from bnas_jax.data.sources import Placement
from bnas_jax.plan import EVALUATE, STEP
from bnas_jax.plan.machines import Machine
from bnas_jax.runtime import layouts
from bnas_jax.runtime.devices import AXIS, Devices
from bnas_jax.settings import RunSettings, TrainSettings

# The version of cuDNN that XLA compiles for.
_CUDNN = (9, 8, 0)
# Platform -> (packages that contain its compiler, the extra of jax that installs one).
_COMPILERS = {
    "tpu": (("libtpu",), "tpu"),
    "gpu": (("jax_cuda12_plugin", "jax_cuda13_plugin"), "cuda12"),
}
# The number of chips of a TPU host -> their arrangement in x, y and z.
_HOST_CHIPS = {1: [1, 1, 1], 4: [2, 2, 1], 8: [2, 4, 1]}


@dataclasses.dataclass(frozen=True)
class AbsentDevices(Devices):
    """`Devices` whose arrays are `jax.ShapeDtypeStruct`s with a sharding.

    hosts: the number of hosts that the devices belong to.
    """

    hosts: int = 1

    def place(self, array) -> Any:
        """The same array on every device."""
        return _shaped(array, self._sharding(PartitionSpec()))

    def place_rows(self, rows) -> Any:
        """The rows of all hosts, sharded by row.

        rows: the rows of one host; all hosts have the same number.
        """
        shape = (len(rows) * self.hosts, *np.shape(rows)[1:])  # (all rows, ...)
        every = jax.ShapeDtypeStruct(shape, rows.dtype)
        return _shaped(every, self._sharding(PartitionSpec(AXIS)))

    def placement(self, microbatches: int = 1) -> Placement:
        if microbatches > 1:
            return Placement(self.place, self.place)
        return Placement(self.place, self.place_rows, 0, self.hosts)

    def settle(self, state):
        placed = jax.tree.map(self.place, state)
        if not self._stores_for_gpu:
            return placed
        return jax.tree.map(_stored, placed, layouts.formats(placed))

    def create(self, function: Callable, *arguments):
        return self.settle(jax.eval_shape(function, *arguments))

    def _sharding(self, spec: PartitionSpec):
        if self.parallel == "none":
            return jax.sharding.SingleDeviceSharding(self.devices[0])
        return NamedSharding(self._mesh, spec)


def check(run: RunSettings, machine: Machine, *, of: str) -> None:
    """Raises `UserError` where a run cannot be planned for a machine.

    The reasons: a search has no evaluation, the machine does not compute in the run's
    precision, no compiler for it is installed, or the batch cannot be divided over its
    devices.

    of: `step`, or `evaluate`, whose batches are padded and need not be divisible.
    """
    if of == EVALUATE and not isinstance(run, TrainSettings):
        raise UserError(
            "--of=evaluate is for a training; leave it out to plan a search"
        )

    # The precision.
    if not machine.chip.peak(run.precision):
        raise UserError(
            f"{machine.name} has no {run.precision}; write --config.precision=float32 "
            "or bfloat16"
        )

    # The compiler, which any of the packages contains.
    packages, extra = _COMPILERS[machine.platform]
    if all(importlib.util.find_spec(package) is None for package in packages):
        raise UserError(
            f"the compiler for {machine.name} is not installed: pip install "
            f"'jax[{extra}]=={jax.__version__}'"
        )

    # The batch. Only the number of devices matters: numbers stand for them.
    if of == STEP:
        count = 1 if _on_one(run.parallel, machine.chips) else machine.chips
        Devices(run.parallel, tuple(range(count))).check_batch(run)


def _on_one(parallel: str, chips: int) -> bool:
    """Whether a run with this `config.parallel` uses one device."""
    return parallel == "none" or (parallel == "auto" and chips == 1)


def devices_of(machine: Machine, parallel: str) -> AbsentDevices:
    """The devices of a machine.

    parallel: `config.parallel`. pmap is planned as shard_map, since both make the same
        program (a test compares them).
    """
    devices = _topology(machine).devices
    if _on_one(parallel, len(devices)):
        return AbsentDevices("none", tuple(devices[:1]))

    # In the order of the hosts, as a batch is divided.
    in_order = sorted(devices, key=lambda device: (device.process_index, device.id))
    return AbsentDevices("shard_map", tuple(in_order), hosts=machine.hosts)


def _topology(machine: Machine) -> Any:
    """JAX's description of a machine's devices, for the compiler."""
    from jax.experimental import topologies

    if machine.platform == "gpu":
        return _gpu_topology(machine)
    bounds = _HOST_CHIPS[machine.chips_per_host]
    options: dict[str, Any] = {"chips_per_host_bounds": bounds}
    if machine.chip.name == "v4":
        # Both cores of a chip are one device, as in JAX on a slice.
        options["chip_config_name"] = "megacore"
    return topologies.get_topology_desc(
        platform="tpu",
        topology_name=f"{machine.chip.name}:{machine.shape}",
        **options,
    )


def _gpu_topology(machine: Machine) -> Any:
    """`_topology` for GPUs."""
    from jax.experimental import topologies

    # slices x hosts x GPUs of a host
    shape = f"1x{machine.hosts}x{machine.chips_per_host}"
    return topologies.get_topology_desc(
        platform="cuda",
        topology_name="",
        target_config=_target(machine),
        topology=shape,
    )


def _target(machine: Machine) -> str:
    """XLA's description of a GPU, a GpuTargetConfigProto as text.

    The limits of threads and registers are those of both generations, Ampere and
    Hopper.
    """
    gpu = machine.chip.gpu
    assert gpu is not None, "the machine has GPUs"
    capability_major, capability_minor = gpu.capability
    major, minor, patch = _CUDNN
    return f"""
gpu_device_info {{
  cuda_compute_capability {{ major: {capability_major} minor: {capability_minor} }}
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {gpu.shared + 1024}
  shared_memory_per_block_optin: {gpu.shared}
  threads_per_core_limit: 2048
  core_count: {gpu.cores}
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  memory_bandwidth: {round(machine.chip.bandwidth)}
  device_memory_size: {round(machine.chip.memory)}
  l2_cache_size: {gpu.cache}
  clock_rate_ghz: 1.7
}}
platform_name: "CUDA"
dnn_version_info {{ major: {major} minor: {minor} patch: {patch} }}
"""


def _stored(leaf: jax.ShapeDtypeStruct, how) -> jax.ShapeDtypeStruct:
    """The same shape, placed and stored as `layouts.formats` says."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=how)


def _shaped(array, sharding) -> jax.ShapeDtypeStruct:
    """The shape and type that an array would have on a device."""
    dtype = array.dtype
    # The dtype of random keys is not a number's, and stays.
    if not jax.dtypes.issubdtype(dtype, jax.dtypes.extended):
        dtype = jax.dtypes.canonicalize_dtype(dtype)
    return jax.ShapeDtypeStruct(np.shape(array), dtype, sharding=sharding)
