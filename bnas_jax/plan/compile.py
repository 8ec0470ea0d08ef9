"""A run's own step or evaluation, compiled for a machine: what XLA and the compiled
text say of it.
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

# What the compiler for TPUs says when a program needs more than the main memory. (Of
# the memory on the chip it says "vmem".)
_FULL = re.compile(r"[Uu]sed ([\d.]+)([KMGT]) of [\d.]+[KMGT] hbm")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Memory:
    """The bytes of one chip's main memory that a program needs."""

    # What the program is called with: state, data and batch.
    arguments: int
    # What only the step's other programs are called with, and which lies there
    # meanwhile: a search's held-out images, say.
    others: int
    # What it gives back, apart from results that take the place of arguments.
    results: int
    # What it stores on the way, such as activations for the gradient.
    temporaries: int
    # The program itself.
    code: int

    @property
    def total(self) -> int:
        """All of it."""
        return (
            self.arguments + self.others + self.results + self.temporaries + self.code
        )


@dataclasses.dataclass(frozen=True)
class Compiled:
    """One program, compiled, as one chip of the machine runs it."""

    memory: Memory
    # What it computes, moves and sends: the least time follows from it.
    work: Work
    # The bytes that it reads and writes by XLA's count, which has those of on-chip
    # memory, too.
    accessed: float
    # The bytes that it moves to and from the main memory, without what only pads
    # arrays.
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
    """The programs of a step, one for each of its stages, or of a batch of the
    evaluation.

    too_large: the bytes that a program needs, by the compiler, which does not make it;
    None where all were made.
    batch_size: images that a program takes, on all devices. images: that a step reads,
    which a search does for each of its parts. steps: of an epoch, or batches of the
    evaluation. seconds: of tracing and compiling. quick: see `compile_for`.
    """

    programs: tuple[Compiled, ...]
    too_large: int | None
    devices: int
    batch_size: int
    images: int
    steps: int
    seconds: float
    quick: bool = False

    @property
    def memory_bytes(self) -> int:
        """Of the program that needs most."""
        if self.too_large is not None:
            return self.too_large
        return max(program.memory.total for program in self.programs)


class _Calls(NamedTuple):
    """What a step or a batch calls; the rest as in `Plan`."""

    calls: Sequence[Call]
    batch_size: int
    images: int
    steps: int


class _TooLarge(Exception):
    """A program that the compiler does not make.

    Its argument: the bytes that it needs.
    """


def compile_for(
    run: SearchSettings | TrainSettings,
    data: Dataset,
    machine: Machine,
    *,
    of: str = STEP,
    quick: bool = False,
) -> Plan:
    """Compiles what `run` would run on the machine. of: `step` or `evaluate`.

    quick: with XLA's least effort. Memory and messages are nearly those of the program
    that would run, but it keeps little on the chip, so that what it moves is of no use
    for a bound.

    `UserError` where the batch cannot be divided over the devices, the compiler is
    missing, or it refuses the program.
    """
    check(run, machine, of=of)
    where = devices_of(machine, run.parallel)
    jax.config.update("jax_enable_x64", run.precision == "float64")
    jax.config.update("jax_default_matmul_precision", run.matmul_precision)
    if quick:
        jax.config.update("jax_optimization_level", "O0")
    start = time.perf_counter()
    calls_of = _evaluation if of == EVALUATE else _step
    asked = calls_of(run, data, where)
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
    parts = 1
    if isinstance(run, SearchSettings):
        program = build.search(run, data, where)
        # Each part of the training set gives a batch.
        searcher = run.searcher
        parts = len({name for stage in searcher.stages for name in stage.batches})
    else:
        of_run = teacher.drawn(run, data, where)
        program = build.training(run, data, where, teacher=of_run)
    state = where.create(program.create, 0)
    steps = where.compile_steps(*program.stages, tuned=False)
    return _Calls(
        calls=steps.calls(state, [program.feeds(0)]),
        batch_size=run.batch_size,
        images=parts * run.batch_size,
        steps=program.steps_per_epoch,
    )


def _evaluation(run: Any, data: Dataset, where: AbsentDevices) -> _Calls:
    if not isinstance(run, TrainSettings):
        raise UserError(
            "--of=evaluate is for a training; leave it out to plan a search"
        )
    model = build.network(run, data.train.num_classes, where.axis)
    evaluator = Evaluator(model, data.test, data.augmentation, run, where=where)
    shape = data.test.image_shape
    # Initialised without the axis of the devices, which is known within a step alone.
    alone = build.network(run, data.train.num_classes)
    variables = where.create(lambda: initial_variables(alone, shape, 0))
    return _Calls(
        calls=[evaluator.call(variables)],
        batch_size=evaluator.batch_size,
        images=evaluator.batch_size,
        steps=-(-len(data.test) // evaluator.batch_size),
    )


def _compiled(
    call: Call, calls: Sequence[Call], where: AbsentDevices, machine: Machine
) -> Compiled:
    """One of the calls, compiled and read."""
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
    return Memory(
        arguments=analysis.argument_size_in_bytes,
        others=others,
        results=analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
        temporaries=analysis.temp_size_in_bytes,
        code=analysis.generated_code_size_in_bytes,
    )


def _bytes_beside(arguments: tuple, every: Sequence[tuple]) -> int:
    """Bytes on one device of what the calls take that is not among these arguments."""
    taken = {id(leaf) for leaf in jax.tree.leaves(arguments)}
    others = {
        id(leaf): leaf for leaf in jax.tree.leaves(every) if id(leaf) not in taken
    }
    total = 0
    for leaf in others.values():
        shape = leaf.sharding.shard_shape(leaf.shape)
        total += math.prod(shape) * leaf.dtype.itemsize
    return total


def bytes_needed(message: str) -> int | None:
    """The bytes of main memory that a program needs by the compiler's message; None
    where that is of something else.

    `bytes_needed("Ran out of memory in memory space hbm. Used 34.20G of 15.75G hbm.")`
    is 36722970624, near 34.2 GiB.
    """
    found = _FULL.search(message)
    if found is None:
        return None
    return round(float(found[1]) * _UNITS[found[2]])


def _kernels(moves: Sequence[Move]) -> dict[str, int]:
    """How often instructions of each kind run that are kernels of their own; calls into
    libraries by their names.
    """
    found: Counter[str] = Counter()
    for instruction in (
        move.instruction for move in moves if not move.instruction.within
    ):
        kind = instruction.opcode
        if kind == "custom-call":
            types = ",".join(sorted({array.dtype for array in instruction.arrays[:1]}))
            kind = f"{instruction.target} {types}"
        if kind in ("fusion", "transpose", "copy", "convolution") or instruction.target:
            found[kind] += instruction.trips
    return dict(found.most_common())
