"""The bytes that a compiled program moves in the main memory of a chip."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from bnas_jax.plan.compiled_text import NAME_OPERANDS, Array, Instruction, Program
from bnas_jax.plan.control_flow import executed

# Instructions that themselves move nothing.
FREE = {
    "parameter",
    "inner-parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "while",
    "conditional",
    "call",
    "partition-id",
    "replica-id",
    "opt-barrier",
}
# Calls of TPU programs that move nothing: they name adjacent arrays, or allocate memory
# that later instructions write to.
FREE_CALLS = {"AllocateBuffer", "ConcatBitcast"}
# Instructions that read only a part of their first operand.
_PARTS = ("slice", "dynamic-slice", "gather")
# The layer of instructions that belong to no module of the network.
OUTSIDE = "optimizer, data and the rest of the step"

# (array) -> its bytes in the main memory, 0 if it is on the chip.
Size = Callable[[Array], int]


class Move(NamedTuple):
    """The bytes that an instruction of a step moves, in all of its trips."""

    instruction: Instruction
    # Bytes of the main memory, with padding and without.
    bytes: int
    useful: int


def moves(program: Program) -> list[Move]:
    """The bytes that each instruction of a step reads and writes in the main memory.

    An instruction reads each operand once, or only the part of it that it needs.
    """
    run = executed(program)
    padded = _moved(program, run, _padded_bytes)
    useful = _moved(program, run, _useful_bytes)
    found = []
    for instruction, size, part in zip(run, padded, useful, strict=True):
        trips = instruction.trips
        found.append(Move(instruction, bytes=size * trips, useful=part * trips))
    return found


def _padded_bytes(array: Array) -> int:
    """A `Size`: the bytes of an array with padding."""
    return array.bytes


def _useful_bytes(array: Array) -> int:
    """A `Size`: the bytes of an array without padding."""
    return 0 if array.on_chip else array.useful


def _total(arrays: Iterable[Array], size: Size) -> int:
    """The bytes of several arrays."""
    return sum(size(array) for array in arrays)


def by_layer(found: Sequence[Move]) -> dict[str, int]:
    """{layer: bytes that a step moves for it}, the most first."""
    total: dict[str, int] = defaultdict(int)
    for move in found:
        total[move.instruction.layer or OUTSIDE] += move.bytes
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def _moved(program: Program, run: Sequence[Instruction], size: Size) -> list[int]:
    """The bytes that each instruction moves when it runs once."""
    made = {each.name: each for each in run}
    return [_moved_by(each, made, program, size) for each in run]


def _moved_by(
    instruction: Instruction,
    made: Mapping[str, Instruction],
    program: Program,
    size: Size,
) -> int:
    """The bytes that an instruction moves when it runs once.

    made: name -> instruction, of all instructions that run.
    """
    opcode = instruction.opcode
    # The bytes of a "-done" are counted at its "-start", and those of an instruction
    # within a fusion at the fusion.
    free = opcode in FREE or opcode.endswith("-done")
    free = free or instruction.target in FREE_CALLS
    if free or instruction.within:
        return 0

    # Each operand is read once, however often it is named.
    names = dict.fromkeys(instruction.operands)
    operands = [made[name] for name in names if name in made]
    read = [_total(each.arrays, size) for each in operands]
    result = _total(instruction.arrays, size)

    if opcode in ("slice-start", "dynamic-slice-start"):
        # Its result is a tuple (whole, part, ...): it reads the part, and writes it.
        part = instruction.arrays[1]
        return _bytes_read(part, size) + size(part)
    if opcode in ("copy-start", "collective-permute-start", *NAME_OPERANDS):
        # Its result is a tuple that includes the arrays that it reads.
        return result
    if opcode in _PARTS:
        # It reads as many bytes of its first operand as it writes.
        taken = _part_of(operands[0].arrays, instruction.arrays, size)
        return taken + result + sum(read[1:])
    if opcode in ("dynamic-update-slice", "scatter"):
        # These write in place: only the new values are read and written. They are the
        # last operand of a scatter, and the second one of an update.
        new = operands[-1] if opcode == "scatter" else operands[1]
        written = _part_of(instruction.arrays, new.arrays, size)
        return _total(new.arrays, size) + written
    if opcode == "fusion":
        return _moved_by_fusion(instruction, made, program, size)
    return sum(read) + result


def _bytes_read(part: Array, size: Size) -> int:
    """The bytes of main memory that are read for a part of an array.

    The part itself may be on the chip.
    """
    return size(part._replace(on_chip=False))


def _part_of(whole: Iterable[Array], part: Iterable[Array], size: Size) -> int:
    """The bytes that move when only a part of an array is read or written.

    0 if the whole array is on the chip; the part may be there in any case.
    """
    if all(array.on_chip for array in whole):
        return 0
    return sum(_bytes_read(array, size) for array in part)


def _moved_by_fusion(
    fusion: Instruction, made: Mapping[str, Instruction], program: Program, size: Size
) -> int:
    """The bytes that a fusion moves when it runs once."""
    # The bytes that it writes.
    total = _written(fusion, program, size)

    # An operand may be at several positions, but is read once.
    positions: dict[str, list[int]] = defaultdict(list)
    for position, name in enumerate(fusion.operands):
        positions[name].append(position)

    # The bytes that it reads: of each operand, all of it or the parts that it needs.
    for name, where in positions.items():
        if name not in made:
            continue
        whole = _total(made[name].arrays, size)
        parts = [_read_of(program, fusion.called, position, size) for position in where]
        known = [part for part in parts if part is not None]
        if whole and len(known) == len(parts):
            whole = min(whole, sum(known))
        total += whole
    return total


def _written(fusion: Instruction, program: Program, size: Size) -> int:
    """The bytes that a fusion writes.

    For an update in place, these are only the new values.
    """
    inside = program.computations.get(fusion.called, ())
    made = {each.name: each for each in inside}
    # The instruction that makes each result: a fusion with several ends with a tuple.
    (root,) = [each for each in inside if each.root] or [fusion]
    results = [root] * len(fusion.arrays)
    if root.opcode == "tuple" and len(root.operands) == len(results):
        results = [made[name] for name in root.operands]

    total = 0
    for array, result in zip(fusion.arrays, results, strict=True):
        written = size(array)
        if result.opcode == "dynamic-update-slice":
            # The operands: the array to update, the new values, the place.
            new = made[result.operands[1]]
            written = min(written, sum(_bytes_read(part, size) for part in new.arrays))
        total += written
    return total


def _read_of(
    program: Program, computation: str, position: int, size: Size
) -> int | None:
    """The bytes that a fusion reads of one operand, if it needs only parts of it.

    None if it reads all of the operand.

    computation: the name of the computation that the fusion runs.
    position: the position of the operand among those of the fusion.
    """
    # The names that the operand has inside: its parameter, and later its bitcasts.
    inside = program.computations.get(computation, ())
    names = set()
    for each in inside:
        if each.opcode == "parameter" and each.arguments == str(position):
            names.add(each.name)
    if not names:
        return None

    # Add the bytes that each instruction inside reads of it.
    total = 0
    for each in inside:
        taken = [place for place, name in enumerate(each.operands) if name in names]
        if not taken:
            continue
        if each.opcode == "bitcast":
            names.add(each.name)
        elif each.opcode in _PARTS and taken == [0]:
            total += sum(_bytes_read(array, size) for array in each.arrays)
        elif each.opcode == "dynamic-update-slice" and taken == [0]:
            # In place: the values that are not updated are not read.
            continue
        elif each.opcode == "fusion":
            for place in taken:
                part = _read_of(program, each.called, place, size)
                if part is None:
                    return None
                total += part
        else:
            return None
    return total
