"""Sets JAX up for a command: its devices, its processes and its precision."""

import dataclasses

import jax

from bnas_jax.runtime import compilation_cache, devices, hosts, memory
from bnas_jax.runtime.devices import Devices
from bnas_jax.settings import DistributedSettings, Settings


def configure(run: Settings) -> Devices:
    """Sets JAX up for a run, and chooses the devices that steps run on.

    It joins the other processes, too. To be called before JAX's first array.

    Raises `UserError` for devices or processes that are not there, and where processes
    have different settings.
    """
    memory.share_heap()
    # On CPU, a step that is sent off before the last one has ended allocates gigabytes
    # beside it.
    jax.config.update("jax_cpu_enable_async_dispatch", False)

    # The processes join before anything touches a device: JAX counts the devices of all
    # processes once.
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
    """`configure` for one process that does something with a network of the run.

    It works on its default device, in the run's precision, whatever devices and hosts
    the run had.
    """
    # The number of processes is given: on a machine of a cluster this one would wait
    # for others without it.
    one = DistributedSettings(num_processes=1)
    alone = dataclasses.replace(run, parallel="none", distributed=one)
    configure(alone)


def keep_to_host() -> None:
    """Leaves accelerators alone, as another run may have them.

    To be called before JAX's first array.
    """
    jax.config.update("jax_platforms", "cpu")
