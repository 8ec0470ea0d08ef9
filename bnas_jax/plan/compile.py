"""A run's own step or evaluation, compiled for a machine: what XLA and the compiled text say of it."""

import dataclasses
import re
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax

from bnas_jax.core.errors import UserError
from bnas_jax.data.load import Dataset
from bnas_jax.plan import compiled_text, movement
from bnas_jax.plan.absent import AbsentDevices, check, devices_of
from bnas_jax.plan.compiled_text import Instruction
from bnas_jax.plan.machines import Machine
from bnas_jax.plan.movement import Buffer, Message
from bnas_jax.plan.roofline import Work
from bnas_jax.runtime.compiling import Call
from bnas_jax.settings import SearchSettings, TrainSettings
from bnas_jax.training import build
from bnas_jax.training.evaluate import Evaluator

STEP, EVALUATE = "step", "evaluate"
# What the compilers for TPUs and GPUs say when a program needs more than there is.
_FULL = re.compile(r"[Uu]sed ([\d.]+)([KMGT]) of [\d.]+[KMGT]")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one chip's main memory. arguments: state, data and batch; results that reuse them are not counted again."""

    arguments: int
    results: int
    temporaries: int
    code: int

    @property
    def total(self) -> int:
        return self.arguments + self.results + self.temporaries + self.code


@dataclasses.dataclass(frozen=True)
class Compiled:
    """One program for one chip of the machine.

    memory: None where there is not enough, and then `needed` are the bytes that the compiler names. accessed: bytes by XLA's
    count, on-chip memory included; work.moved are those of the main memory. useful: the part of those that is no padding.
    kernels: kind of instruction -> how often it runs.
    """

    memory: Memory | None
    needed: int
    work: Work
    accessed: float
    useful: float
    messages: tuple[Message, ...]
    buffers: tuple[Buffer, ...]
    layers: dict[str, int]
    kernels: dict[str, int]
    tracing_seconds: float
    compiling_seconds: float

    @property
    def memory_bytes(self) -> int:
        return self.needed if self.memory is None else self.memory.total


@dataclasses.dataclass(frozen=True)
class Plan:
    """The programs of a step, one for each of its stages, or of a batch of the evaluation."""

    programs: tuple[Compiled, ...]
    devices: int
    steps_per_epoch: int


def compile_for(
    run: SearchSettings | TrainSettings, data: Dataset, machine: Machine, *, of: str = STEP
) -> Plan:
    """Compiles what `run` would run on the machine. of: `step` or `evaluate`.

    `UserError` where the batch cannot be divided over the devices, or the compiler is missing.
    """
    check(run, machine)
    where = devices_of(machine, run.parallel)
    jax.config.update("jax_enable_x64", run.precision == "float64")
    jax.config.update("jax_default_matmul_precision", run.matmul_precision)
    calls, steps = (_evaluation if of == EVALUATE else _step)(run, data, where)
    programs = tuple(_compiled(call, where, machine) for call in calls)
    return Plan(programs=programs, devices=where.count, steps_per_epoch=steps)


def _step(run: Any, data: Dataset, where: AbsentDevices) -> tuple[Sequence[Call], int]:
    """(what a step calls, steps of an epoch)"""
    make = build.search if isinstance(run, SearchSettings) else build.training
    program = make(run, data, where)
    state = where.create(program.create, 0)
    steps = where.compile_steps(*program.stages, tuned=False)
    return steps.calls(state, [program.feeds(0)]), program.steps_per_epoch


def _evaluation(run: Any, data: Dataset, where: AbsentDevices) -> tuple[Sequence[Call], int]:
    """(what a batch of the evaluation calls, its batches)"""
    if not isinstance(run, TrainSettings):
        raise UserError("--of=evaluate is for a training; leave it out to plan a search")
    program = build.training(run, data, where)
    state = where.create(program.create, 0)
    evaluator = Evaluator(program.model, data.test, data.augmentation, run, where=where)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    batches = -(-len(data.test) // run.eval_batch_size)
    return [evaluator.call(variables)], batches


def _compiled(call: Call, where: AbsentDevices, machine: Machine) -> Compiled:
    program, arguments = call
    start = time.perf_counter()
    lowered = program.lower(*arguments)
    traced = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        needed = _needed(str(error))
        if needed is None:
            raise
        return _too_large(needed, tracing=traced - start, compiling=time.perf_counter() - traced)
    seconds = {"tracing": traced - start, "compiling": time.perf_counter() - traced}
    return _read(compiled, where, machine, **seconds)


def _read(
    compiled: Any,
    where: AbsentDevices,
    machine: Machine,
    *,
    tracing: float,
    compiling: float,
) -> Compiled:

    instructions = compiled_text.instructions(compiled.as_text())
    messages = movement.messages(
        instructions, chips=where.count, chips_per_host=machine.chips_per_host
    )
    layers = movement.by_layer(instructions)
    # The compiler for GPUs counts nothing.
    counts = compiled.cost_analysis() or {}
    # XLA counts a loop as if it ran once.
    repeats = movement.repeats(instructions)
    work = Work(
        operations=counts.get("flops", 0.0) * repeats,
        moved=sum(layers.values()),
        sent=sum(message.bytes for message in messages),
    )
    return Compiled(
        memory=_memory(compiled.memory_analysis()),
        needed=0,
        work=work,
        accessed=counts.get("bytes accessed", 0.0) * repeats,
        useful=movement.useful(instructions),
        messages=tuple(messages),
        buffers=tuple(movement.largest_buffers(instructions)),
        layers=layers,
        kernels=_kernels(instructions),
        tracing_seconds=tracing,
        compiling_seconds=compiling,
    )


def _memory(analysis: Any) -> Memory:
    return Memory(
        arguments=analysis.argument_size_in_bytes,
        results=analysis.output_size_in_bytes - analysis.alias_size_in_bytes,
        temporaries=analysis.temp_size_in_bytes,
        code=analysis.generated_code_size_in_bytes,
    )


def _too_large(needed: int, *, tracing: float, compiling: float) -> Compiled:
    return Compiled(
        memory=None,
        needed=needed,
        work=Work(0.0, 0.0, 0.0),
        accessed=0.0,
        useful=0.0,
        messages=(),
        buffers=(),
        layers={},
        kernels={},
        tracing_seconds=tracing,
        compiling_seconds=compiling,
    )


def _needed(message: str) -> int | None:
    """The bytes that a program needs by the compiler's message; None where that is of something else."""
    found = _FULL.search(message)
    if found is None:
        return None
    return round(float(found[1]) * _UNITS[found[2]])


def _kernels(instructions: Sequence[Instruction]) -> dict[str, int]:
    """How often instructions of each kind run that are kernels of their own; calls into libraries by their names."""
    found: Counter[str] = Counter()
    for instruction in instructions:
        kind = instruction.opcode
        if kind == "custom-call":
            types = ",".join(sorted({array.dtype for array in instruction.arrays[:1]}))
            kind = f"{instruction.target} {types}"
        if kind in ("fusion", "transpose", "copy", "convolution") or instruction.target:
            found[kind] += instruction.trips
    return dict(found.most_common())
