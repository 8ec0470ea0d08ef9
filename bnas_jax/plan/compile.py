"""Compiles a run's step or evaluation for a machine that is not there.

`compile_for` returns a `Plan`, read from XLA's figures and from the text of the
compiled programs.
"""

import dataclasses
import math
import re
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from bnas_jax.core.errors import UserError, first_line
from bnas_jax.data.load import Dataset
from bnas_jax.plan import EVALUATE, STEP, buffers, movement
from bnas_jax.plan.absent import AbsentDevices, check, devices_of
from bnas_jax.plan.buffers import Buffer
from bnas_jax.plan.collectives import Message
from bnas_jax.plan.machines import Machine
from bnas_jax.plan.movement import Move
from bnas_jax.plan.roofline import Work
from bnas_jax.plan.work import read
from bnas_jax.runtime.compiling import Call
from bnas_jax.settings import SearchSettings, TrainSettings
from bnas_jax.training import build, teacher
from bnas_jax.training.evaluate import Evaluator
from bnas_jax.training.state import initial_variables

# What the compiler for TPUs says when a program needs more than the main memory. ("hbm"
# is the main memory; a message about the memory on the chip says "vmem".)
# It may count the temporaries alone.
_FULL = re.compile(
    r"[Uu]sed (?P<all>[\d.]+[KMGT]) of [\d.]+[KMGT] hbm"
    r"|HLO temporaries \((?P<part>[\d.]+[KMGT])\) exceeds available HBM"
)
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# Instructions that are kernels of their own, besides calls into libraries.
_KERNELS = ("fusion", "transpose", "copy", "convolution")


@dataclasses.dataclass(frozen=True)
class Memory:
    """The bytes of one chip's main memory that a program needs."""

    # The arguments of the program: state, data and batch.
    arguments: int
    # Arguments of the step's other programs that this one does not have, but that stay
    # in memory: in a search, for instance, the images of the other half.
    others: int
    # The results, without those that reuse the memory of arguments (donated buffers).
    results: int
    # Temporary arrays, such as activations that are stored for the gradient.
    temporaries: int
    # The program itself.
    code: int

    @property
    def total(self) -> int:
        """The sum of all kinds."""
        data = self.arguments + self.others + self.results + self.temporaries
        return data + self.code


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled program, as one chip of the machine runs it."""

    memory: Memory
    # Its operations, and the bytes that it moves and sends; they give the least time.
    work: Work
    # The bytes that it reads and writes by XLA's count, including memory on the chip.
    accessed: float
    # The bytes that it moves to and from the main memory, without padding.
    useful: float
    # The collectives, by kind and size of their groups.
    messages: tuple[Message, ...]
    # The largest results and arguments in the main memory, the largest first.
    buffers: tuple[Buffer, ...]
    # Module of the network -> bytes that are moved for it.
    layers: dict[str, int]
    # Kind of kernel -> how often it runs.
    kernels: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Plan:
    """The plan of a step of a run, or of a batch of its evaluation, on a machine."""

    # One program for each stage of a step, or the program of the evaluation.
    programs: tuple[Compiled, ...]
    # The bytes of memory that a program needs which the compiler refused as too large;
    # None if it refused none.
    too_large: int | None
    # The number of devices.
    devices: int
    # The number of images in a batch, over all devices.
    batch_size: int
    # The number of images that a step reads: a search reads a batch of each half of its
    # training set.
    images: int
    # The number of steps in an epoch, or of batches in the evaluation.
    steps: int
    # The time of tracing and compiling.
    seconds: float
    # See `compile_for`.
    quick: bool = False

    @property
    def memory_bytes(self) -> int:
        """The bytes of main memory that the largest program needs."""
        if self.too_large is not None:
            return self.too_large
        return max(program.memory.total for program in self.programs)


class _Calls(NamedTuple):
    """The calls that are planned."""

    # The calls of a step, or of a batch of the evaluation.
    calls: Sequence[Call]
    # As in `Plan`.
    batch_size: int
    images: int
    steps: int


class _TooLarge(Exception):
    """The compiler refuses a program because it does not fit.

    The argument is the number of bytes that the program needs.
    """


def compile_for(
    run: SearchSettings | TrainSettings,
    data: Dataset,
    machine: Machine,
    *,
    of: str = STEP,
    quick: bool = False,
) -> Plan:
    """Compiles the programs that `run` would run on the machine.

    of: `step` or `evaluate`.
    quick: compiles with XLA's least effort. Memory and messages are nearly those of the
        program that would run, but such a program keeps little on the chip: the bytes
        that it moves give no bound for the real one.

    Raises `UserError` where `absent.check` does, or the compiler refuses the program.
    """
    check(run, machine, of=of)
    where = devices_of(machine, run.parallel)

    # JAX's settings, as `jax_setup.configure` sets them for a run.
    jax.config.update("jax_enable_x64", run.precision == "float64")
    jax.config.update("jax_default_matmul_precision", run.matmul_precision)
    if quick:
        jax.config.update("jax_optimization_level", "O0")

    # The calls of the step or the evaluation, with shapes in place of arrays.
    start = time.perf_counter()
    calls_of = _evaluation if of == EVALUATE else _step
    asked = calls_of(run, data, where)

    # Compile one program after the other, up to the first that is too large.
    programs: list[Compiled] = []
    too_large = None
    try:
        for call in asked.calls:
            programs.append(_compiled(call, asked.calls, where, machine))
    except _TooLarge as error:
        too_large = int(error.args[0])
    return Plan(
        programs=tuple(programs),
        too_large=too_large,
        devices=where.count,
        batch_size=asked.batch_size,
        images=asked.images,
        steps=asked.steps,
        seconds=time.perf_counter() - start,
        quick=quick,
    )


def _step(run: Any, data: Dataset, where: AbsentDevices) -> _Calls:
    """The calls of a step of a search or a training."""
    parts = 1
    if isinstance(run, SearchSettings):
        program = build.search(run, data, where)
        # A step reads a batch of each part of the training set that a stage names.
        names: set[str] = set()
        for stage in run.searcher.stages:
            names |= set(stage.batches)
        parts = len(names)
    else:
        of_run = teacher.drawn(run, data, where)
        program = build.training(run, data, where, teacher=of_run)

    # The state of seed 0 and the data of the first step stand for all others, since
    # only shapes matter.
    state = where.create(program.create, 0)
    steps = where.compile_steps(*program.stages, tuned=False)
    return _Calls(
        calls=steps.calls(state, [program.feeds(0)]),
        batch_size=run.batch_size,
        images=parts * run.batch_size,
        steps=program.steps_per_epoch,
    )


def _evaluation(run: Any, data: Dataset, where: AbsentDevices) -> _Calls:
    """The call of a batch of a training's evaluation."""
    model = build.network(run, data.train.num_classes, where.axis)
    evaluator = Evaluator(model, data.test, data.augmentation, run, where=where)

    # Make the variables with a model that does not name the axis of the devices, as
    # this axis only exists within a step.
    shape = data.test.image_shape
    alone = build.network(run, data.train.num_classes)
    variables = where.create(lambda: initial_variables(alone, shape, 0))

    batch_size = evaluator.batch_size
    return _Calls(
        calls=[evaluator.call(variables)],
        batch_size=batch_size,
        images=batch_size,
        steps=math.ceil(len(data.test) / batch_size),
    )


def _compiled(
    call: Call, calls: Sequence[Call], where: AbsentDevices, machine: Machine
) -> Compiled:
    """Compiles the program of a call, and reads the result.

    calls: all calls of the step, whose arguments are also in the main memory.
    """
    # Compile.
    program, arguments = call
    try:
        traced = program.trace(*arguments)
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        needed = bytes_needed(str(error))
        if needed is not None:
            raise _TooLarge(needed) from error
        raise UserError(
            f"the compiler for {machine.name} refuses this program: {first_line(error)}"
        ) from error

    # Read the compiled text, and XLA's own figures.
    work, moves, messages = read(
        compiled,
        traced.jaxpr.jaxpr,
        chips=where.count,
        chips_per_host=machine.chips_per_host,
        switch_adds=machine.chip.switch_adds,
    )
    counts = compiled.cost_analysis() or {}
    others = _bytes_beside(arguments, [other for _, other in calls])
    return Compiled(
        memory=_memory(compiled.memory_analysis(), others=others),
        work=work,
        accessed=counts.get("bytes accessed", 0.0),
        useful=sum(move.useful for move in moves),
        messages=tuple(messages),
        buffers=tuple(buffers.largest(moves)),
        layers=movement.by_layer(moves),
        kernels=_kernels(moves),
    )


def _memory(analysis: Any, *, others: int) -> Memory:
    """The memory of a program by XLA's analysis."""
    # Aliased results reuse the memory of arguments.
    results = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return Memory(
        arguments=analysis.argument_size_in_bytes,
        others=others,
        results=results,
        temporaries=analysis.temp_size_in_bytes,
        code=analysis.generated_code_size_in_bytes,
    )


def _bytes_beside(arguments: tuple, every: Sequence[tuple]) -> int:
    """The bytes, on one device, of the arguments that only other calls have.

    arguments: the arguments of one call.
    every: the arguments of all calls.
    """
    # An array that several calls take is counted once, by its identity.
    taken = {id(leaf) for leaf in jax.tree.leaves(arguments)}
    others = {}
    for leaf in jax.tree.leaves(every):
        if id(leaf) not in taken:
            others[id(leaf)] = leaf

    # A device has one shard of a sharded array.
    total = 0
    for leaf in others.values():
        shape = leaf.sharding.shard_shape(leaf.shape)
        total += math.prod(shape) * leaf.dtype.itemsize
    return total


def bytes_needed(message: str) -> int | None:
    """The bytes of main memory that a program needs, from the compiler's message.

    None for a message about something else.

    `bytes_needed("Ran out of memory in memory space hbm. Used 34.20G of 15.75G hbm.")`
    is 36722970624, near 34.2 GiB.
    """
    found = _FULL.search(message)
    if found is None:
        return None
    size = found["all"] or found["part"]
    return round(float(size[:-1]) * _UNITS[size[-1]])


def _kernels(moves: Sequence[Move]) -> dict[str, int]:
    """{kind of kernel: how often a step runs it}, the most frequent first.

    The kind of a call into a library is its target and the type of its first result.
    """
    found: Counter[str] = Counter()
    for move in moves:
        instruction = move.instruction
        # An instruction within a fusion is not a kernel, nor is one that only names or
        # allocates memory.
        if instruction.within or instruction.target in movement.FREE_CALLS:
            continue
        kind = instruction.opcode
        if kind == "custom-call":
            first = instruction.arrays[:1]
            dtype = first[0].dtype if first else ""
            kind = f"{instruction.target} {dtype}"
        if kind in _KERNELS or instruction.target:
            found[kind] += instruction.trips
    return dict(found.most_common())
