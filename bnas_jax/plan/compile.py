"""A run's own step or evaluation, compiled for a machine that is not there.

`compile_for` gives a `Plan`: what XLA and the text of the compiled programs say.
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
from bnas_jax.plan import EVALUATE, STEP, movement
from bnas_jax.plan.absent import AbsentDevices, check, devices_of
from bnas_jax.plan.machines import Machine
from bnas_jax.plan.movement import Buffer, Message, Move
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

    # What the program is called with: state, data and batch.
    arguments: int
    # What lies there meanwhile for the step's other programs alone: a search's held-out
    # images, say.
    others: int
    # What it gives back, apart from results that take the place of arguments (donated
    # buffers).
    results: int
    # What it stores on the way, such as activations for the gradient.
    temporaries: int
    # The program itself.
    code: int

    @property
    def total(self) -> int:
        """All of it."""
        data = self.arguments + self.others + self.results + self.temporaries
        return data + self.code


@dataclasses.dataclass(frozen=True)
class Compiled:
    """One program, compiled, as one chip of the machine runs it."""

    memory: Memory
    # What it computes, moves and sends: the least time follows from it.
    work: Work
    # The bytes that it reads and writes by XLA's count, on-chip memory included.
    accessed: float
    # The bytes that it moves to and from the main memory, without padding.
    useful: float
    # What chips send each other, by kinds.
    messages: tuple[Message, ...]
    # The largest results and arguments in main memory, the largest first.
    buffers: tuple[Buffer, ...]
    # Module of the network -> bytes that are moved for it.
    layers: dict[str, int]
    # Kind of instruction -> how often it runs.
    kernels: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a step of a run, or a batch of its evaluation, takes on a machine."""

    # One for each stage of a step, or the one of an evaluation.
    programs: tuple[Compiled, ...]
    # The bytes that a program needs which the compiler refuses as too large; None where
    # it made all of them.
    too_large: int | None
    devices: int
    # The images that a program takes, on all devices.
    batch_size: int
    # The images that a step reads: a batch for each part of a search's training set.
    images: int
    # The steps of an epoch, or the batches of the evaluation.
    steps: int
    # Of tracing and compiling.
    seconds: float
    # See `compile_for`.
    quick: bool = False

    @property
    def memory_bytes(self) -> int:
        """The bytes of main memory of the program that needs most."""
        if self.too_large is not None:
            return self.too_large
        return max(program.memory.total for program in self.programs)


class _Calls(NamedTuple):
    """The calls that are planned."""

    # Those of a step, or of a batch of the evaluation.
    calls: Sequence[Call]
    # As in `Plan`.
    batch_size: int
    images: int
    steps: int


class _TooLarge(Exception):
    """A program that does not fit, which the compiler refuses.

    Its argument: the bytes that the program needs.
    """


def compile_for(
    run: SearchSettings | TrainSettings,
    data: Dataset,
    machine: Machine,
    *,
    of: str = STEP,
    quick: bool = False,
) -> Plan:
    """Compiles what `run` would run on the machine.

    of: `step` or `evaluate`.
    quick: compiles with XLA's least effort. Memory and messages are nearly those of the
        program that would run. But it keeps little on the chip, so that the bytes that
        it moves are of no use for a bound.

    Raises `UserError` where the batch cannot be divided over the devices, the compiler
    is missing, or it refuses the program.
    """
    check(run, machine, of=of)
    where = devices_of(machine, run.parallel)

    # JAX's settings, as `jax_setup.configure` sets them for a run.
    jax.config.update("jax_enable_x64", run.precision == "float64")
    jax.config.update("jax_default_matmul_precision", run.matmul_precision)
    if quick:
        jax.config.update("jax_optimization_level", "O0")

    # What would be called, with shapes in place of arrays.
    start = time.perf_counter()
    calls_of = _evaluation if of == EVALUATE else _step
    asked = calls_of(run, data, where)

    # Compile program by program, up to the first that is too large.
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
    """What a step of a search or a training calls."""
    parts = 1
    if isinstance(run, SearchSettings):
        program = build.search(run, data, where)
        # Each part of the training set that a stage reads gives a batch.
        names = {name for stage in run.searcher.stages for name in stage.batches}
        parts = len(names)
    else:
        of_run = teacher.drawn(run, data, where)
        program = build.training(run, data, where, teacher=of_run)

    # The state of seed 0 and the first epoch's data stand for all others: only their
    # shapes matter.
    state = where.create(program.create, 0)
    steps = where.compile_steps(*program.stages, tuned=False)
    return _Calls(
        calls=steps.calls(state, [program.feeds(0)]),
        batch_size=run.batch_size,
        images=parts * run.batch_size,
        steps=program.steps_per_epoch,
    )


def _evaluation(run: Any, data: Dataset, where: AbsentDevices) -> _Calls:
    """What a batch of a training's evaluation calls."""
    if not isinstance(run, TrainSettings):
        raise UserError(
            "--of=evaluate is for a training; leave it out to plan a search"
        )
    model = build.network(run, data.train.num_classes, where.axis)
    evaluator = Evaluator(model, data.test, data.augmentation, run, where=where)

    # The variables of a model without the axis of the devices, which is known only
    # within a step.
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
    """Compiles the program of a call, and reads what XLA made of it.

    calls: all of the step, whose arguments lie in the main memory, too.
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
        buffers=tuple(movement.largest_buffers(moves)),
        layers=movement.by_layer(moves),
        kernels=_kernels(moves),
    )


def _memory(analysis: Any, *, others: int) -> Memory:
    """The memory of a program by XLA's analysis."""
    # Aliased results take the place of arguments.
    results = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return Memory(
        arguments=analysis.argument_size_in_bytes,
        others=others,
        results=results,
        temporaries=analysis.temp_size_in_bytes,
        code=analysis.generated_code_size_in_bytes,
    )


def _bytes_beside(arguments: tuple, every: Sequence[tuple]) -> int:
    """The bytes on one device of arguments that other calls have alone.

    arguments: those of one call.
    every: those of all calls.
    """
    # An array that several calls take lies there once: it is known by its identity.
    taken = {id(leaf) for leaf in jax.tree.leaves(arguments)}
    others = {}
    for leaf in jax.tree.leaves(every):
        if id(leaf) not in taken:
            others[id(leaf)] = leaf

    # Of a sharded array each device has a shard.
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
    """Kind of kernel -> how often a step runs it, the most frequent first.

    A call into a library is named by its target and the type of its first result.
    """
    found: Counter[str] = Counter()
    for move in moves:
        instruction = move.instruction
        # What is part of a fusion is no kernel of its own, nor is a name for a place.
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
