"""The devices that a run has, and how a step is spread over them.

Nothing else knows how many devices there are. A step is written for one device and its
shard of the batch, with the name of an axis to average over. `Devices` runs it on one
device, or on many by pmap or shard_map. Between steps the state is one replicated array
for each leaf, in all three cases.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bnas_jax.core.errors import UserError
from bnas_jax.data.sources import Placement
from bnas_jax.runtime.compiling import Program
from bnas_jax.runtime.steps import Steps, once_options, scanned_steps, step_options
from bnas_jax.settings import RunSettings

AXIS = "devices"
_REPLICATED, _DIVIDED = PartitionSpec(), PartitionSpec(AXIS)


def choose(parallel: str, available: Sequence[jax.Device]) -> "Devices":
    """The devices of a run.

    parallel: `config.parallel`; `auto` is shard_map where there are several devices.
    available: the devices of all processes.
    """
    # Not pmap: with several processes it makes another array of every leaf of the state
    # before and after each call. For 650 leaves a call took 53 to 102 ms on CPUs, by
    # shard_map 7 ms, and a step on an accelerator takes 10 to 20.
    if parallel == "auto":
        parallel = "shard_map"
        if len(available) == 1:
            parallel = "none"
    if parallel == "none":
        if jax.process_count() > 1:
            raise UserError(
                "config.parallel=none runs in one process, and there are "
                f"{jax.process_count()}; write auto"
            )
        available = available[:1]
    # The devices of a process are side by side, so that its part of a batch is one
    # piece.
    by_process = lambda device: (device.process_index, device.id)
    return Devices(parallel, devices=tuple(sorted(available, key=by_process)))


@dataclasses.dataclass(frozen=True)
class Devices:
    """Where and how steps run.

    With several processes, pmap takes arrays on the devices of this process. shard_map
    and checkpoints take arrays on all devices. `_local` is therefore the mesh of the
    state between steps, `_mesh` that of the whole run.

    parallel: `none`, `pmap` or `shard_map`.
    devices: those of all processes, empty for the default one.
    """

    parallel: str = "none"
    devices: tuple = ()

    @property
    def count(self) -> int:
        """The number of devices, those of all processes."""
        return max(len(self.devices), 1)

    @property
    def axis(self) -> str | None:
        """The axis that a step averages over, None on one device."""
        if self.parallel == "none":
            return None
        return AXIS

    def check_batch(self, run: RunSettings) -> None:
        """Raises `UserError` unless devices and microbatches divide the batch."""
        parts = self.count * run.microbatches
        if run.batch_size % parts:
            over = f"{self.count} devices"
            if run.microbatches > 1:
                over += f" in {run.microbatches} microbatches"
            next_multiple = -(-run.batch_size // parts) * parts
            raise UserError(
                f"config.batch_size={run.batch_size} cannot be divided over {over}: "
                f"write a multiple of {parts}, for instance {next_multiple}"
            )

    def batch(self, source, feed, microbatches: int = 1):
        """Inside a step: this device's part of a source's batch.

        The parts of the microbatches follow each other. A microbatch consists of the
        same examples on any number of devices.

        source: a source of batches.
        feed: what it makes the batch of.
        """
        shard: Any = 0
        if self.axis:
            shard = jax.lax.axis_index(AXIS)

        # A microbatch is a contiguous piece of the batch, of which each device has its
        # part.
        parts = []
        for number in range(microbatches):
            first = number * self.count
            part = source.prepare(
                feed,
                shard=first + shard,
                shards=microbatches * self.count,
            )
            parts.append(part)
        if microbatches == 1:
            return parts[0]
        return jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *parts)

    @functools.cached_property
    def _mesh(self) -> Mesh:
        """All devices of the run."""
        return Mesh(np.array(self.devices), (AXIS,))

    @functools.cached_property
    def _local(self) -> Mesh:
        """The devices that a state between steps is on."""
        if self.parallel != "pmap":
            return self._mesh
        process = jax.process_index()
        local = [device for device in self.devices if device.process_index == process]
        return Mesh(np.array(local), (AXIS,))

    def place(self, array) -> jax.Array:
        """The same array on every device."""
        if self.parallel == "none":
            return jax.device_put(array)
        array = np.asarray(array)
        # By a callback: `device_put` to devices of other processes would compare the
        # array over all of them.
        sharding = NamedSharding(self._local, _REPLICATED)
        return jax.make_array_from_callback(
            array.shape, sharding, lambda index: array[index]
        )

    def place_rows(self, rows: np.ndarray) -> jax.Array:
        """This process's rows of a batch, divided over its devices.

        In its step each device has (rows / devices, ...) of them.
        """
        if self.parallel == "none":
            return jax.device_put(rows)
        # pmap maps over a leading axis.
        if self.parallel == "pmap":
            local = len(self._local.devices)
            rows = rows.reshape(local, -1, *rows.shape[1:])  # (devices, rows, ...)
        sharding = NamedSharding(self._local, _DIVIDED)
        return jax.make_array_from_process_local_data(sharding, rows)

    def placement(self, microbatches: int = 1) -> Placement:
        """How the arrays of a source are put onto the devices.

        Data sets in memory are put everywhere, streamed batches by rows.
        """
        # Microbatches are spread over all hosts. With several microbatches each host
        # therefore needs the whole batch.
        if microbatches > 1:
            return Placement(everywhere=self.place, rows=self.place)
        return Placement(
            everywhere=self.place,
            rows=self.place_rows,
            host=jax.process_index(),
            hosts=jax.process_count(),
        )

    def settle(self, state):
        """A state as steps take it.

        Since the last step, some leaves may have been computed on the host, or on one
        device.
        """
        if self.parallel == "none":
            return state
        wanted = NamedSharding(self._local, _REPLICATED)

        def settled(leaf):
            if isinstance(leaf, jax.Array) and leaf.sharding == wanted:
                return leaf
            return self.place(leaf)

        return jax.tree.map(settled, state)

    def create(self, function: Callable, *arguments):
        """The result of `function(*arguments)`, jitted, on all devices."""
        created = _called_once(function, arguments)
        if self.parallel == "none":
            return created
        return jax.tree.map(self.place, created)

    def compile_steps(self, *stages: Callable, tuned: bool = True) -> Steps:
        """The steps of these stages, `stage(state, feed) -> state` each.

        A program is compiled at its first call.

        tuned: whether programs of one step take `step_options`; those of several steps
            in a call, and pmap, take no options.
        """
        options = None
        if tuned:
            options = step_options()

        # The old state's buffers are given away (argument 0), as two states of a large
        # network may not fit.
        programs = []
        for stage in stages:
            programs.append(self._program(stage, donate=(0,), options=options))

        def scanned(structure, differing: list[int]) -> Program:
            several = scanned_steps(stages, structure, differing)
            return self._program(several, donate=(0,))

        return Steps(programs, scanned)

    def compile_evaluation(self, step: Callable) -> Program:
        """The compiled evaluation, (variables, feed, ...) -> sums over all devices."""
        return self._program(step, donate=())

    def _program(
        self, step: Callable, donate: tuple[int, ...], options: dict | None = None
    ) -> Program:
        """A step or an evaluation, to be compiled for these devices.

        donate: the positions of arguments whose buffers it may reuse.
        """
        if self.parallel == "none":
            jitted = jax.jit(step, donate_argnums=donate, compiler_options=options)
            return Program(lambda arguments: (jitted, ()))

        # How the first arguments are placed decides how they are mapped.
        def mapped(arguments: tuple) -> tuple[Any, tuple]:
            specs = jax.tree.map(lambda leaf: leaf.sharding.spec, arguments)
            if self.parallel == "pmap":
                # pmap takes no compiler options.
                return self._pmap(step, specs=specs, donate=donate)
            return self._shard_map(step, specs=specs, donate=donate, options=options)

        return Program(mapped)

    def _shard_map(self, step: Callable, specs, donate, options) -> tuple[Any, tuple]:
        """(the step by shard_map, no further arguments), see `Program`.

        specs: how each argument is spread over the mesh.
        """
        # The step averages over the axis itself, so that its outputs are replicated.
        # With the check on, JAX would also sum the gradients of replicated inputs over
        # the axis.
        mapped = jax.shard_map(
            step,
            mesh=self._mesh,
            in_specs=specs,
            out_specs=_REPLICATED,
            check_vma=False,
        )
        jitted = jax.jit(mapped, donate_argnums=donate, compiler_options=options)
        return jitted, ()

    def _pmap(self, step: Callable, specs, donate) -> tuple[Any, tuple]:
        """(the step by pmap, its first argument), see `Program`.

        specs: how each argument is spread over the mesh.
        """

        # pmap must map over at least one argument. This one is the index of the device,
        # which nothing reads.
        @functools.wraps(step)
        def mapped(index, *arguments):
            del index
            return step(*arguments)

        # The axis of each leaf that is mapped over, None for a replicated leaf.
        def axis_of(spec: PartitionSpec) -> int | None:
            if spec == _DIVIDED:
                return 0
            return None

        is_spec = lambda leaf: isinstance(leaf, PartitionSpec)
        axes = jax.tree.map(axis_of, specs, is_leaf=is_spec)

        compiled = jax.pmap(
            mapped,
            axis_name=AXIS,
            devices=list(self.devices),
            in_axes=(0, *axes),
            out_axes=None,
            donate_argnums=tuple(argument + 1 for argument in donate),
        )
        numbers = np.arange(len(self._local.devices))
        index = self.place_rows(numbers)[:, 0]  # (devices,)
        return compiled, (index,)

    def saveable(self, state):
        """A copy of a state, of arrays of the whole run.

        It can be saved in the background, while steps reuse the buffers of the state.
        """
        copied = _copy(state)
        if self.parallel != "pmap" or jax.process_count() == 1:
            return copied
        return jax.tree.map(lambda leaf: _rewrapped(leaf, self._mesh), copied)

    def restorable(self, shapes):
        """`ShapeDtypeStruct`s placed on these devices.

        A checkpoint of any number of devices is restored there.
        """
        if self.parallel == "none":
            sharding: Any = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        else:
            sharding = NamedSharding(self._mesh, _REPLICATED)
        placed = lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding)
        return jax.tree.map(placed, shapes)

    def restored(self, state):
        """A state that was restored to the shapes of `restorable`, as steps take it."""
        if self.parallel != "pmap" or jax.process_count() == 1:
            return state
        return jax.tree.map(lambda leaf: _rewrapped(leaf, self._local), state)


# The default device alone.
ONE = Devices()


def _called_once(function: Callable, arguments: tuple):
    """The result of a program that runs once, on the default device.

    Beside an accelerator the CPU runs it, whose compiler is the fastest: the drawing of
    BNAS-A's parameters takes 5 s of processor time, for an H100 30 s, for a v5e 25 s.
    """
    host = _host()
    if host is None:
        return jax.jit(function, compiler_options=once_options())(*arguments)
    options = once_options(host.platform)
    with jax.default_device(host):
        arguments = jax.device_put(arguments, host)
        made = jax.jit(function, compiler_options=options)(*arguments)
    return jax.device_put(made, jax.local_devices()[0])


def _host() -> jax.Device | None:
    """The CPU beside an accelerator; None where JAX has one kind of device alone.

    None also for several processes: the CPUs of their hosts may round differently.
    """
    if jax.default_backend() == "cpu" or jax.process_count() > 1:
        return None
    # JAX_PLATFORMS may leave the CPU out.
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


def _rewrapped(leaf: jax.Array, mesh: Mesh) -> jax.Array:
    """The same replicated buffers as an array of another mesh."""
    buffers = [shard.data for shard in leaf.addressable_shards]
    sharding = NamedSharding(mesh, _REPLICATED)
    return jax.make_array_from_single_device_arrays(
        leaf.shape, sharding, arrays=buffers
    )


@jax.jit
def _copy(tree):
    return jax.tree.map(jnp.copy, tree)
