"""Sets up JAX for a command: devices, processes and precision."""

import dataclasses

import jax

from bnas_jax.runtime import compilation_cache, devices, hosts, memory
from bnas_jax.runtime.devices import Devices
from bnas_jax.settings import DistributedSettings, Settings


def configure(run: Settings) -> Devices:
    """Sets up JAX for a run and joins its other processes; returns the devices.

    It must be called before JAX makes its first array.

    Raises `UserError` if devices or processes are missing, or if processes have
    different settings.
    """
    memory.share_heap()
    # On CPU, a step that is dispatched before the previous one has ended allocates
    # further gigabytes.
    jax.config.update("jax_cpu_enable_async_dispatch", False)

    # Join the processes before anything uses a device: JAX counts the devices of all
    # processes only once.
    hosts.join(run.distributed)
    jax.config.update("jax_enable_x64", run.precision == "float64")
    jax.config.update("jax_default_matmul_precision", run.matmul_precision)
    hosts.end_by_sigterm()
    hosts.agree(run)
    compilation_cache.leave_unless_shared()

    where = devices.choose(run.parallel, jax.devices())
    if jax.default_backend() == "cpu" and where.count == 1:
        memory.keep_heap()
    return where


def configure_alone(run: Settings) -> None:
    """`configure` for one process and its default device.

    It keeps the run's precision, but not its devices and hosts.
    """
    # Without an explicit number of processes, this one would wait for others if it runs
    # on a cluster.
    one = DistributedSettings(num_processes=1)
    alone = dataclasses.replace(run, parallel="none", distributed=one)
    configure(alone)


def keep_to_host() -> None:
    """Restricts JAX to the CPU, because another run may use the accelerators.

    It must be called before JAX makes its first array.
    """
    jax.config.update("jax_platforms", "cpu")
