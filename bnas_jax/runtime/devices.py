"""The only file that knows about devices: arithmetic, compilation and its cache, and how a step is spread over devices.

A step is written for one device and its shard of the batch, with the name of an axis to average over. `Devices` runs it on
one device, or on many by pmap or shard_map; between steps the state is one replicated array a leaf in all three.
"""

import dataclasses
import functools
import os
import pathlib
import tempfile
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bnas_jax.core.errors import UserError
from bnas_jax.data.sources import Placement
from bnas_jax.runtime import hosts, memory
from bnas_jax.runtime.compiling import Call, Program
from bnas_jax.settings import RunSettings, Settings

AXIS = "devices"
_REPLICATED, _DIVIDED = PartitionSpec(), PartitionSpec(AXIS)


def configure(run: Settings) -> "Devices":
    """Sets JAX up for a run, before its first array: meets the other processes, and says where steps run."""
    memory.share_heap()
    # A step that is sent off before the one before it has ended has gigabytes of its own. Several devices need that, one not.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    hosts.join(run.distributed)
    jax.config.update("jax_enable_x64", run.precision == "float64")
    jax.config.update("jax_default_matmul_precision", run.matmul_precision)
    hosts.agree(run)
    where = choose(run.parallel, jax.devices())
    if jax.default_backend() == "cpu" and where.count == 1:
        memory.keep_heap()
    return where


def keep_to_host() -> None:
    """Leaves accelerators alone, before JAX's first array: another run may have them."""
    jax.config.update("jax_platforms", "cpu")


def choose(parallel: str, available: Sequence[jax.Device]) -> "Devices":
    """The devices of `config.parallel`; `auto` is pmap where there are several."""
    if parallel == "auto":
        parallel = "none" if len(available) == 1 else "pmap"
    if parallel == "none":
        if jax.process_count() > 1:
            raise UserError(
                f"config.parallel=none runs in one process, and there are {jax.process_count()}; write auto"
            )
        available = available[:1]
    # Each process's side by side, so that its part of a batch is one piece.
    return Devices(
        parallel, tuple(sorted(available, key=lambda device: (device.process_index, device.id)))
    )


def use_compilation_cache() -> None:
    """Keeps compiled programs in the user's cache directory, unless JAX is told of another: a second start is much faster.

    Where that cannot be written to, or there is no home directory, programs are compiled anew, with a warning.
    """
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    try:
        cache = user_cache() / "bnas_jax" / "xla"
        cache.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=cache).close()
    except (OSError, RuntimeError) as error:
        warnings.warn(
            f"compiled programs are not kept ({error}); set XDG_CACHE_HOME to a directory for them",
            stacklevel=2,
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(cache))


def user_cache() -> pathlib.Path:
    """The user's directory for what can be made again; `OSError` or `RuntimeError` without a home directory."""
    if os.environ.get("XDG_CACHE_HOME"):
        return pathlib.Path(os.environ["XDG_CACHE_HOME"])
    return pathlib.Path.home().resolve(strict=True) / ".cache"  # a home that is missing is not made


@dataclasses.dataclass(frozen=True)
class Devices:
    """Where and how steps run. parallel: none, pmap or shard_map; devices: those of all processes, empty for the default one.

    With several processes, pmap wants arrays of the process's own devices and shard_map those of all; checkpoints want the
    latter. `_local` is therefore the mesh between steps, `_mesh` that of the whole run.
    """

    parallel: str = "none"
    devices: tuple = ()

    @property
    def count(self) -> int:
        return max(len(self.devices), 1)

    @property
    def axis(self) -> str | None:
        """The axis that a step averages over."""
        return None if self.parallel == "none" else AXIS

    def check_batch(self, run: RunSettings) -> None:
        """`UserError` unless the batch divides evenly over devices and microbatches."""
        parts = self.count * run.microbatches
        if run.batch_size % parts:
            over = f"{self.count} devices" + (
                f" in {run.microbatches} microbatches" if run.microbatches > 1 else ""
            )
            raise UserError(
                f"config.batch_size={run.batch_size} cannot be divided over {over}: write a multiple of {parts},"
                f" for instance {-(-run.batch_size // parts) * parts}"
            )

    def batch(self, source, feed, microbatches: int = 1):
        """Inside a step: this device's part of a source's batch, its microbatches one after the other.

        A microbatch consists of the same examples on any number of devices.
        """
        shard = jax.lax.axis_index(AXIS) if self.axis else 0
        parts = [
            source.prepare(feed, j * self.count + shard, microbatches * self.count)
            for j in range(microbatches)
        ]
        return (
            parts[0] if microbatches == 1 else jax.tree.map(lambda *p: jnp.concatenate(p), *parts)
        )

    @functools.cached_property
    def _mesh(self) -> Mesh:
        return Mesh(np.array(self.devices), (AXIS,))

    @functools.cached_property
    def _local(self) -> Mesh:
        own = [d for d in self.devices if d.process_index == jax.process_index()]
        return Mesh(np.array(own), (AXIS,)) if self.parallel == "pmap" else self._mesh

    def place(self, array) -> jax.Array:
        """The same array on every device."""
        if self.parallel == "none":
            return jax.device_put(array)
        array = np.asarray(array)
        return jax.make_array_from_callback(
            array.shape, NamedSharding(self._local, _REPLICATED), lambda index: array[index]
        )

    def place_rows(self, rows: np.ndarray) -> jax.Array:
        """This process's rows of a batch, divided over its devices; each finds its own (rows / devices, ...) in its step."""
        if self.parallel == "none":
            return jax.device_put(rows)
        if self.parallel == "pmap":  # maps over a leading axis
            rows = rows.reshape(len(self._local.devices), -1, *rows.shape[1:])
        return jax.make_array_from_process_local_data(NamedSharding(self._local, _DIVIDED), rows)

    def placement(self, microbatches: int = 1) -> Placement:
        """Where batches go: those in memory everywhere, streamed ones by rows. Microbatches are spread over all hosts, so that
        with several of them each host needs the whole batch."""
        if microbatches > 1:
            return Placement(self.place, self.place)
        return Placement(self.place, self.place_rows, jax.process_index(), jax.process_count())

    def settle(self, state):
        """A state with the leaves placed that were computed on the host, or on one device, since the last step."""
        if self.parallel == "none":
            return state
        wanted = NamedSharding(self._local, _REPLICATED)
        fits = lambda leaf: isinstance(leaf, jax.Array) and leaf.sharding == wanted
        return jax.tree.map(lambda leaf: leaf if fits(leaf) else self.place(leaf), state)

    def create(self, function: Callable, *arguments):
        """`function(*arguments)`, jitted. It runs once, and drawing many parameters takes longest to compile, so that is kept
        short."""
        options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
        created = jax.jit(function, compiler_options=options)(*arguments)
        return created if self.parallel == "none" else jax.tree.map(self.place, created)

    def compile_steps(self, *stages: Callable, tuned: bool = True) -> "Steps":
        """From the stages of a step, `stage(state, feed) -> state` each, the compiled steps.

        tuned: with the options of XLA that make them fast.
        """
        options = _step_options() if tuned else None
        programs = [self._program(stage, donate=(0,), options=options) for stage in stages]
        return Steps(
            programs,
            lambda structure, own: self._program(_scanned(stages, structure, own), donate=(0,)),
        )

    def compile_evaluation(self, step: Callable) -> Program:
        """The compiled (variables, feed, ...) -> sums over all devices."""
        return self._program(step, donate=())

    def _program(
        self, step: Callable, donate: tuple[int, ...], options: dict | None = None
    ) -> Program:
        if self.parallel == "none":
            jitted = jax.jit(step, donate_argnums=donate, compiler_options=options)
            return Program(lambda arguments: (jitted, ()))
        specs = lambda arguments: jax.tree.map(lambda leaf: leaf.sharding.spec, arguments)
        if self.parallel == "pmap":
            return Program(
                lambda arguments: self._pmap(step, specs(arguments), donate)
            )  # which takes no options
        return Program(lambda arguments: self._shard_map(step, specs(arguments), donate, options))

    def _shard_map(self, step: Callable, specs, donate, options) -> tuple[Any, tuple]:
        # The averages in the step replicate what it returns; checked replication would change what gradients of them mean.
        mapped = jax.shard_map(
            step, mesh=self._mesh, in_specs=specs, out_specs=_REPLICATED, check_vma=False
        )
        return jax.jit(mapped, donate_argnums=donate, compiler_options=options), ()

    def _pmap(self, step: Callable, specs, donate) -> tuple[Any, tuple]:
        @functools.wraps(step)
        def mapped(index, *arguments):
            del index  # pmap maps over something, whether it is used or not
            return step(*arguments)

        is_spec = lambda leaf: isinstance(leaf, PartitionSpec)
        axes = jax.tree.map(lambda spec: 0 if spec == _DIVIDED else None, specs, is_leaf=is_spec)
        donate = tuple(argument + 1 for argument in donate)
        options = {"in_axes": (0, *axes), "out_axes": None, "donate_argnums": donate}
        compiled = jax.pmap(mapped, axis_name=AXIS, devices=list(self.devices), **options)
        index = self.place_rows(np.arange(len(self._local.devices)))[:, 0]
        return compiled, (index,)

    def saveable(self, state):
        """A copy of a state that survives its donation, of arrays of the whole run: for saving in the background."""
        copied = _copy(state)
        if self.parallel != "pmap" or jax.process_count() == 1:
            return copied
        return jax.tree.map(lambda leaf: _rewrapped(leaf, self._mesh), copied)

    def restorable(self, shapes):
        """`ShapeDtypeStruct`s placed on these devices, so that a checkpoint of any number of devices is restored there."""
        if self.parallel == "none":
            sharding: Any = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        else:
            sharding = NamedSharding(self._mesh, _REPLICATED)
        return jax.tree.map(
            lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes
        )

    def restored(self, state):
        """What was restored to `restorable`, as steps take it."""
        if self.parallel != "pmap" or jax.process_count() == 1:
            return state
        return jax.tree.map(lambda leaf: _rewrapped(leaf, self._local), state)


ONE = Devices()


class Steps:
    """Compiled steps: (state, [feeds of a step, ...]) -> state.

    The feeds of a step are one for each stage; all steps make one call. The old state's buffers are reused. Stages are programs
    of their own: XLA's work grows faster than what it is given (a search step as two loads in 0.4 of the time that it takes as
    one).
    programs: one for each stage. scanned: see `_scanned`, (structure, own) -> the program of several steps.
    """

    def __init__(self, programs: list[Program], scanned: Callable[[Any, list[int]], Program]):
        self._programs, self._scanned = programs, scanned
        self._several: Program | None = None

    def calls(self, state, feeds: list[tuple]) -> list[Call]:
        """The programs that a call runs, for `compile_together`."""
        if len(feeds) == 1:
            return [
                (program, (state, feed))
                for program, feed in zip(self._programs, feeds[0], strict=True)
            ]
        leaves = [jax.tree.leaves(feed) for feed in feeds]
        # What every step shares, such as the whole data set, is passed once.
        own = [
            i
            for i, leaf in enumerate(leaves[0])
            if any(other[i] is not leaf for other in leaves[1:])
        ]
        self._several = self._several or self._scanned(jax.tree.structure(feeds[0]), own)
        return [
            (self._several, (state, leaves[0], [[of_step[i] for i in own] for of_step in leaves]))
        ]

    def __call__(self, state, feeds: list[tuple]):
        for program, (_, *feed) in self.calls(state, feeds):
            state = program(state, *feed)
        return state


@functools.cache
def _step_options() -> dict | None:
    """Options of XLA for steps.

    On CPU, its new library YNNPACK takes twice as long as Eigen for gradients of kernels with few channels (64x32x32x36,
    3x3: 62 ms and 23), so that convolutions are taken from it: 4.8 s a BNAS-A step with, 3.4 s without.
    """
    options = {
        "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"
    }
    if jax.default_backend() != "cpu":
        return None
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except jax.errors.JaxRuntimeError:  # not an option of this version
        return None
    return options


def _scanned(stages: Sequence[Callable], structure, own: list[int]) -> Callable:
    """(state, leaves of the first feeds, those at the positions `own` for each step) -> the state after all steps."""

    def steps(state, leaves, of_steps):
        def body(state, values):
            mine = dict(zip(own, values, strict=True))
            feeds = jax.tree.unflatten(
                structure, [mine.get(i, leaf) for i, leaf in enumerate(leaves)]
            )
            for stage, feed in zip(stages, feeds, strict=True):
                state = stage(state, feed)
            return state, None

        return jax.lax.scan(
            body, state, [jnp.stack(values) for values in zip(*of_steps, strict=True)]
        )[0]

    return steps


def _rewrapped(leaf: jax.Array, mesh: Mesh) -> jax.Array:
    """The same replicated buffers as an array of another mesh."""
    buffers = [shard.data for shard in leaf.addressable_shards]
    return jax.make_array_from_single_device_arrays(
        leaf.shape, NamedSharding(mesh, _REPLICATED), buffers
    )


@jax.jit
def _copy(tree):
    return jax.tree.map(jnp.copy, tree)


@jax.jit
def all_finite(tree) -> jax.Array:
    """Whether no array of the tree holds a NaN or an infinity."""
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
