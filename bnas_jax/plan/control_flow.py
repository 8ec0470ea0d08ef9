"""The instructions that a call of a compiled program runs, and how often."""

from collections.abc import Sequence

from bnas_jax.plan.compiled_text import COLLECTIVES, Instruction, Program
from bnas_jax.plan.loops import repeats

# The target of the call by which a fusion starts a collective, on a TPU. The collective
# then runs while the TPU computes something else.
_BEGINS = "AsyncCollectiveStart"


def executed(program: Program) -> list[Instruction]:
    """The instructions that run when the program is called.

    Instructions in loops have their number of trips, 1 if it is not known. A fusion is
    one instruction, as it makes one pass over memory; only the collectives inside it
    are added. Of a conditional, the branch with the smallest results is taken.
    """
    found: list[Instruction] = []
    for instruction in program.computations.get(program.entry, ()):
        found += _runs(program, instruction, trips=1)
    return found


def _runs(
    program: Program, instruction: Instruction, *, trips: int
) -> list[Instruction]:
    """The instruction, and those that run within what it calls.

    trips: how often the instruction runs.
    """
    found = [instruction._replace(trips=trips)]
    # In each of its trips, a loop runs its body several times.
    if instruction.opcode == "while":
        trips *= repeats(program, instruction)
        return found + _body(program, instruction.body, trips=trips)

    if instruction.opcode == "call":
        return found + _body(program, instruction.called, trips=trips)

    # A conditional runs one of its branches: take the smallest one, for a lower bound.
    if instruction.opcode == "conditional":
        branches = []
        for name in instruction.branches:
            branches.append(_body(program, name, trips=trips))
        return found + min(branches, key=_bytes_of_results, default=[])

    if instruction.opcode == "fusion":
        found += _begun(program, instruction, trips=trips)
    return found


def _bytes_of_results(instructions: Sequence[Instruction]) -> int:
    """The bytes of main memory that the results of these instructions take."""
    return sum(each.bytes for each in instructions)


def _body(program: Program, name: str, *, trips: int) -> list[Instruction]:
    """The instructions that a loop, a call or a branch runs.

    name: the name of the computation.
    trips: how often it runs.
    """
    found = []
    # Its parameters are arrays of the caller, not arguments of the program.
    for instruction in program.computations.get(name, ()):
        if instruction.opcode == "parameter":
            instruction = instruction._replace(opcode="inner-parameter")
        found += _runs(program, instruction, trips=trips)
    return found


def _begun(program: Program, fusion: Instruction, *, trips: int) -> list[Instruction]:
    """The collectives that a fusion starts, [] for most fusions."""
    inside = program.computations.get(fusion.called, ())
    if all(each.target != _BEGINS for each in inside):
        return []
    return [
        each._replace(trips=trips, within=True)
        for each in inside
        if each.opcode in COLLECTIVES
    ]
