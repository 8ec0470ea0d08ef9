"""The devices of a run, and how a step runs on them.

Only this module knows how many devices there are. A step is written for one device and
its shard of the batch, with the name of a mesh axis to average over. `Devices` runs it
on one device, or on many by pmap or shard_map. In all three cases each leaf of the
state is one replicated array between steps.
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
from bnas_jax.runtime import layouts
from bnas_jax.runtime.compiling import Program
from bnas_jax.runtime.once import called_once
from bnas_jax.runtime.steps import Steps, scanned_steps, step_options
from bnas_jax.settings import RunSettings

AXIS = "devices"
_REPLICATED, _DIVIDED = PartitionSpec(), PartitionSpec(AXIS)


def choose(parallel: str, available: Sequence[jax.Device]) -> "Devices":
    """The devices of a run.

    parallel: `config.parallel`; `auto` means shard_map if there are several devices.
    available: the devices of all processes.
    """
    # `auto` does not mean pmap: with several processes, pmap copies every leaf of the
    # state into another array before and after each call. With 650 leaves a call took
    # 53 to 102 ms on CPUs, and 7 ms by shard_map; a step on an accelerator takes 10 to
    # 20 ms.
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
    # The devices of a process are consecutive, so that its part of a batch is
    # contiguous.
    by_process = lambda device: (device.process_index, device.id)
    return Devices(parallel, devices=tuple(sorted(available, key=by_process)))


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices of a run, and the transformation that maps steps over them.

    With several processes, pmap takes arrays on the devices of this process, while
    shard_map and checkpoints take arrays on all devices. Therefore there are two
    meshes: `_local` for the state between steps, and `_mesh` for the whole run.

    parallel: `none`, `pmap` or `shard_map`.
    devices: the devices of all processes; empty for the default device.
    """

    parallel: str = "none"
    devices: tuple = ()

    @property
    def count(self) -> int:
        """The number of devices of all processes."""
        return max(len(self.devices), 1)

    @property
    def axis(self) -> str | None:
        """The mesh axis that a step averages over; None for one device."""
        if self.parallel == "none":
            return None
        return AXIS

    def check_batch(self, run: RunSettings) -> None:
        """Raises `UserError` unless devices * microbatches divides the batch size."""
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
        """This device's shard of a source's batch; to be called inside a step.

        The shard consists of this device's part of each microbatch, one after the
        other. A microbatch has the same examples on any number of devices.

        source: a source of batches.
        feed: the arrays that the source makes the batch from, see `source.feed`.
        """
        shard: Any = 0
        if self.axis:
            shard = jax.lax.axis_index(AXIS)

        # A microbatch is a contiguous piece of the batch; each device has a contiguous
        # part of it.
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
        """The mesh of all devices of the run."""
        return Mesh(np.array(self.devices), (AXIS,))

    @functools.cached_property
    def _local(self) -> Mesh:
        """The mesh of the state between steps."""
        if self.parallel != "pmap":
            return self._mesh
        process = jax.process_index()
        local = [device for device in self.devices if device.process_index == process]
        return Mesh(np.array(local), (AXIS,))

    def place(self, array) -> jax.Array:
        """The array, replicated on every device."""
        if self.parallel == "none":
            return jax.device_put(array)
        array = np.asarray(array)
        # `device_put` to devices of other processes would compare the array between all
        # processes; a callback does not.
        sharding = NamedSharding(self._local, _REPLICATED)
        return jax.make_array_from_callback(
            array.shape, sharding, lambda index: array[index]
        )

    def place_rows(self, rows: np.ndarray) -> jax.Array:
        """This process's rows of a batch, sharded over its devices.

        rows: (rows, ...); in the step, each device has (rows / devices, ...).
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
        """How a source puts its arrays on the devices.

        Data sets in memory are replicated, and streamed batches are sharded by rows.
        """
        # A microbatch is sharded over all hosts, so that with several microbatches the
        # rows of a host are not contiguous. Each host then reads the whole batch.
        if microbatches > 1:
            return Placement(everywhere=self.place, rows=self.place)
        return Placement(
            everywhere=self.place,
            rows=self.place_rows,
            host=jax.process_index(),
            hosts=jax.process_count(),
        )

    @functools.cached_property
    def _stores_for_gpu(self) -> bool:
        """Whether a state is stored as `layouts.formats` says."""
        devices = self.devices or jax.local_devices()[:1]
        # pmap cannot say how its results are stored.
        return self.parallel != "pmap" and devices[0].platform in layouts.PLATFORMS

    def settle(self, state):
        """A state whose leaves are all replicated and stored as steps need them.

        Since the last step, some leaves may have been computed on the host, or on one
        device.
        """
        if self.parallel == "none":
            # As a restored state (`restorable`): for arrays that are not bound to a
            # device JAX compiles other programs, and a run that is resumed would find
            # none of its own in the compilation cache.
            state = jax.device_put(state, jax.local_devices()[0])
        else:
            state = self._replicated(state)
        if self._stores_for_gpu:
            state = jax.device_put(state, layouts.formats(state))
        return state

    def _replicated(self, state):
        """`settle` for several devices, without the order of axes."""
        wanted = NamedSharding(self._local, _REPLICATED)

        def settled(leaf):
            if isinstance(leaf, jax.Array) and leaf.sharding == wanted:
                return leaf
            return self.place(leaf)

        return jax.tree.map(settled, state)

    def create(self, function: Callable, *arguments):
        """The result of `function(*arguments)`, computed once and replicated."""
        created = called_once(function, arguments)
        if self.parallel == "none":
            return created
        return jax.tree.map(self.place, created)

    def compile_steps(self, *stages: Callable, tuned: bool = True) -> Steps:
        """The steps that consist of these stages, `stage(state, feed) -> state` each.

        A program is compiled at its first call.

        tuned: whether single steps are compiled with `step_options`. Programs of
            several steps, and pmap, have no options.
        """
        options = None
        if tuned:
            options = step_options()

        # The buffers of the old state (argument 0) are donated, because two states of a
        # large network may not fit into memory.
        programs = []
        for stage in stages:
            programs.append(self._program(stage, of_state=True, options=options))

        def scanned(structure, differing: list[int]) -> Program:
            several = scanned_steps(stages, structure, differing)
            return self._program(several, of_state=True)

        return Steps(programs, scanned)

    def compile_evaluation(self, step: Callable) -> Program:
        """The compiled evaluation, (variables, feed, ...) -> sums over all devices."""
        return self._program(step, of_state=False)

    def _program(
        self, step: Callable, *, of_state: bool, options: dict | None = None
    ) -> Program:
        """A step or an evaluation, mapped over these devices and jitted.

        of_state: whether it makes a state from a state, its first argument, whose
            buffers it may then reuse.
        """
        donate = (0,) if of_state else ()

        # The sharding of the first arguments decides how they are mapped.
        def jitted(arguments: tuple) -> tuple[Any, tuple]:
            if self.parallel == "pmap":
                return self._pmap(step, specs=_specs(arguments), donate=donate)
            mapped = step
            if self.parallel == "shard_map":
                mapped = self._shard_map(step, specs=_specs(arguments))

            # pmap takes neither of these options.
            further: dict[str, Any] = {"compiler_options": options}
            # The new state is stored as the old one.
            if of_state and self._stores_for_gpu:
                further["out_shardings"] = layouts.formats(arguments[0])
            return jax.jit(mapped, donate_argnums=donate, **further), ()

        return Program(jitted)

    def _shard_map(self, step: Callable, specs) -> Callable:
        """The step by shard_map.

        specs: the `PartitionSpec` of each leaf of the arguments.
        """
        # The step averages over the axis itself, so that its outputs are replicated.
        # With the check on, JAX would also sum the gradients of replicated inputs over
        # the axis.
        return jax.shard_map(
            step,
            mesh=self._mesh,
            in_specs=specs,
            out_specs=_REPLICATED,
            check_vma=False,
        )

    def _pmap(self, step: Callable, specs, donate) -> tuple[Any, tuple]:
        """(the step by pmap, its extra argument), see `Program`.

        specs: the `PartitionSpec` of each leaf of the arguments.
        """

        # pmap must map over at least one argument. This one is the index of the device,
        # which the step does not use.
        @functools.wraps(step)
        def mapped(index, *arguments):
            del index
            return step(*arguments)

        # The mapped axis of each leaf; None for a replicated leaf.
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
        """A copy of a state, as arrays on the mesh of the whole run.

        The copy can be saved in the background, while steps reuse the buffers of the
        state.
        """
        copied = _copy(state)
        if self.parallel != "pmap" or jax.process_count() == 1:
            return copied
        return jax.tree.map(lambda leaf: _rewrapped(leaf, self._mesh), copied)

    def restorable(self, shapes):
        """The shapes as `ShapeDtypeStruct`s that are sharded for these devices.

        A checkpoint from any number of devices can be restored to them.
        """
        if self.parallel == "none":
            sharding: Any = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        else:
            sharding = NamedSharding(self._mesh, _REPLICATED)
        placed = lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding)
        return jax.tree.map(placed, shapes)

    def restored(self, state):
        """A state that was restored to the shapes of `restorable`, on these devices."""
        if self.parallel == "pmap" and jax.process_count() > 1:
            state = jax.tree.map(lambda leaf: _rewrapped(leaf, self._local), state)
        return state


# Only the default device.
ONE = Devices()


def _specs(arguments: tuple):
    """The `PartitionSpec` of each leaf of the arguments."""
    return jax.tree.map(lambda leaf: leaf.sharding.spec, arguments)


def _rewrapped(leaf: jax.Array, mesh: Mesh) -> jax.Array:
    """The same replicated buffers as an array on another mesh."""
    buffers = [shard.data for shard in leaf.addressable_shards]
    sharding = NamedSharding(mesh, _REPLICATED)
    return jax.make_array_from_single_device_arrays(
        leaf.shape, sharding, arrays=buffers
    )


@jax.jit
def _copy(tree):
    """A copy of all arrays of a tree."""
    return jax.tree.map(jnp.copy, tree)
