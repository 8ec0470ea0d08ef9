"""What a compiled program moves: bytes of main memory, and messages between chips."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bnas_jax.plan.compiled_text import COLLECTIVES, Array, Instruction, Program
from bnas_jax.plan.control_flow import executed

# Instructions that move nothing by themselves.
_FREE = {
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
# Calls of TPU programs that move nothing: names for arrays which lie side by side, and
# for a place that later instructions write into.
FREE_CALLS = {"AllocateBuffer", "ConcatBitcast"}
# Instructions that take a part of their first operand, and read no more of it.
_PARTS = ("slice", "dynamic-slice", "gather")
# Asynchronous collectives whose results name their operands first, and then what they
# make of them.
_NAME_OPERANDS = {
    "all-gather-start",
    "all-to-all-start",
    "collective-broadcast-start",
    "ragged-all-to-all-start",
    "reduce-scatter-start",
}
# The groups of a collective: listed as {{0,1},{2,3}}, or as a reshaped range,
# [2,2]<=[4] or [2,2]<=[2,2]T(1,0).
_LISTED = re.compile(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{}]*\})\}")
_IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
# The layer of instructions that no module of the network asked for.
OUTSIDE = "optimizer, data and the rest of the step"

# The bytes of an array in the main memory, 0 where it lies on the chip.
Size = Callable[[Array], int]


class Buffer(NamedTuple):
    """An array in the main memory."""

    # With padding, and without.
    bytes: int
    useful: int
    # Its type, shape and layout.
    array: str
    layer: str


class Message(NamedTuple):
    """The collectives of a step that are of one kind, among groups of one size."""

    # XLA's name: "all-reduce".
    kind: str
    # How often they run.
    number: int
    # What each chip sends at least, in all of them.
    bytes: float
    # The chips that take part in each.
    group: int
    # Whether any of their groups spans several hosts.
    between_hosts: bool


class Move(NamedTuple):
    """What an instruction of a step moves in all of its trips."""

    instruction: Instruction
    # Of the main memory, with padding and without.
    bytes: int
    useful: int


def moves(program: Program) -> list[Move]:
    """What each instruction of a step reads and writes in the main memory.

    It reads each operand once, or a part where it takes only that part.
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
    """Layer -> bytes that a step moves for it, the most first."""
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

    made: name -> instruction, of all that run.
    """
    opcode = instruction.opcode
    # A "-done" ends what its "-start" is counted for; a fusion moves data for what is
    # within it.
    free = opcode in _FREE or opcode.endswith("-done")
    free = free or instruction.target in FREE_CALLS
    if free or instruction.within:
        return 0

    # Each operand is read once, however often it is named.
    names = dict.fromkeys(instruction.operands)
    operands = [made[name] for name in names if name in made]
    read = [_total(each.arrays, size) for each in operands]
    result = _total(instruction.arrays, size)

    if opcode in ("slice-start", "dynamic-slice-start"):
        # Its result names (whole, part, ...): it reads the part, and writes it.
        part = instruction.arrays[1]
        return _bytes_read(part, size) + size(part)
    if opcode in ("copy-start", "collective-permute-start", *_NAME_OPERANDS):
        # Its result names what is read, too.
        return result
    if opcode in _PARTS:
        # Of its first operand it reads as much as it writes.
        taken = _part_of(operands[0].arrays, instruction.arrays, size)
        return taken + result + sum(read[1:])
    if opcode in ("dynamic-update-slice", "scatter"):
        # In place: only the new values are read and written. They are the last operand
        # of a scatter, and the second one of an update.
        new = operands[-1] if opcode == "scatter" else operands[1]
        written = _part_of(instruction.arrays, new.arrays, size)
        return _total(new.arrays, size) + written
    if opcode == "fusion":
        return _moved_by_fusion(instruction, made, program, size)
    return sum(read) + result


def _bytes_read(part: Array, size: Size) -> int:
    """The bytes of main memory that are read for a part.

    The part itself may lie on the chip.
    """
    return size(part._replace(on_chip=False))


def _part_of(whole: Iterable[Array], part: Iterable[Array], size: Size) -> int:
    """The bytes that move where only a part of an array is read or written.

    0 where the array lies on the chip; the part, a result or an operand, may lie there.
    """
    if all(array.on_chip for array in whole):
        return 0
    return sum(_bytes_read(array, size) for array in part)


def _moved_by_fusion(
    fusion: Instruction, made: Mapping[str, Instruction], program: Program, size: Size
) -> int:
    """The bytes that a fusion moves when it runs once."""
    # What it writes.
    total = _written(fusion, program, size)

    # An operand may stand at several positions, and is read once.
    positions: dict[str, list[int]] = defaultdict(list)
    for position, name in enumerate(fusion.operands):
        positions[name].append(position)

    # What it reads: an operand, or the parts that it takes of the operand.
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
    """The bytes of its results that a fusion writes.

    Of an update in place, these are the new values only.
    """
    inside = program.computations.get(fusion.called, ())
    made = {each.name: each for each in inside}
    # What makes each result: a fusion with several of them ends with a tuple.
    (root,) = [each for each in inside if each.root] or [fusion]
    results = [root] * len(fusion.arrays)
    if root.opcode == "tuple" and len(root.operands) == len(results):
        results = [made[name] for name in root.operands]

    total = 0
    for array, result in zip(fusion.arrays, results, strict=True):
        written = size(array)
        if result.opcode == "dynamic-update-slice":
            # The operands: what is updated, the new values, the place.
            new = made[result.operands[1]]
            written = min(written, sum(_bytes_read(part, size) for part in new.arrays))
        total += written
    return total


def _read_of(
    program: Program, computation: str, position: int, size: Size
) -> int | None:
    """The bytes that a fusion reads of one operand where it takes only parts of it.

    None where it reads all of the operand.

    computation: what the fusion runs.
    position: of the operand among those of the fusion.
    """
    # The parameter that stands for the operand, and later its bitcasts.
    inside = program.computations.get(computation, ())
    names = set()
    for each in inside:
        if each.opcode == "parameter" and each.arguments == str(position):
            names.add(each.name)
    if not names:
        return None

    # What each instruction inside takes of it.
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
            # In place: what is not updated is not read.
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


def largest_buffers(found: Sequence[Move], count: int = 10) -> list[Buffer]:
    """The largest results and arguments in the main memory, the largest first."""
    no_results = _FREE - {"parameter"}
    buffers = []
    for move in found:
        instruction = move.instruction
        opcode = instruction.opcode
        if opcode in no_results or opcode.endswith("-done"):
            continue
        layer = instruction.layer or OUTSIDE
        if opcode == "parameter":
            layer = "argument"
        for array in _results(instruction):
            sizes = ",".join(map(str, array.shape))
            name = f"{array.dtype}[{sizes}]{array.layout}"
            buffer = Buffer(array.bytes, array.useful, array=name, layer=layer)
            buffers.append(buffer)
    return sorted(buffers, key=lambda buffer: -buffer.bytes)[:count]


def _results(instruction: Instruction) -> tuple[Array, ...]:
    """The arrays that an instruction makes.

    The tuple of an asynchronous one also names what it reads, which is left out.
    """
    found = instruction.arrays
    kind = instruction.opcode
    # (made, read, ...)
    if kind == "copy-start":
        return found[:1]
    # (read, made, ...)
    if kind in ("slice-start", "dynamic-slice-start", "collective-permute-start"):
        return found[1:2]
    # (read, ..., made, ...)
    if kind in _NAME_OPERANDS:
        return found[len(instruction.operands) :]
    return found


def messages(
    found: Sequence[Move], *, chips: int, chips_per_host: int, switch_adds: bool = False
) -> list[Message]:
    """The collectives of a step, by kind and size of their groups.

    chips: how many run the program.
    switch_adds: see `_sent`.
    """
    total: dict[tuple[str, int], Message] = {}
    for move in found:
        instruction = move.instruction
        kind = instruction.opcode.removesuffix("-start")
        if kind not in COLLECTIVES:
            continue

        # Who takes part.
        groups = _groups(instruction.text, chips)
        group = max(map(len, groups))
        apart = any(_spans_hosts(each, chips_per_host) for each in groups)

        # Add it to the others of its kind and size.
        sent = _sent(kind, instruction, group, switch_adds=switch_adds)
        none_yet = Message(kind, number=0, bytes=0, group=group, between_hosts=False)
        before = total.get((kind, group), none_yet)
        total[kind, group] = before._replace(
            number=before.number + instruction.trips,
            bytes=before.bytes + sent * instruction.trips,
            between_hosts=before.between_hosts or apart,
        )
    return [total[key] for key in sorted(total)]


def _spans_hosts(group: Sequence[int], chips_per_host: int) -> bool:
    """Whether the chips of a group stand in several hosts."""
    hosts = {chip // chips_per_host for chip in group}
    return len(hosts) > 1


def _sent(
    kind: str, instruction: Instruction, group: int, *, switch_adds: bool
) -> float:
    """The bytes that each chip of a group sends at least in one run of a collective.

    With n the bytes of the result and g the chips of the group:

    - all-reduce: 2 n (g - 1) / g, or n (g - 1) / g where the switch between the chips
      adds (`switch_adds`);
    - reduce-scatter: n (g - 1), with such a switch as well: the parts of the others;
    - collective-permute, collective-broadcast: n;
    - all-gather, all-to-all: n (g - 1) / g.
    """
    size = sum(array.useful for array in _results(instruction))
    share = (group - 1) / group
    if kind == "all-reduce":
        return size * (share if switch_adds else 2 * share)
    if kind == "reduce-scatter":
        return size * (group - 1)
    if kind in ("collective-permute", "collective-broadcast"):
        return size
    return share * size


def _groups(text: str, chips: int) -> list[list[int]]:
    """The chips of each group of a collective, or the two of each pair.

    text: the instruction's attributes.
    """
    # A range, reshaped and perhaps transposed, with a group in each row.
    iota = _IOTA.search(text)
    if iota:
        count, size = int(iota[1]), int(iota[2])
        shape = _integers(iota[3])
        order = np.arange(np.prod(shape)).reshape(shape)
        if iota[4]:
            order = order.transpose(_integers(iota[4]))
        return order.reshape(count, size).tolist()

    # A list of groups or of pairs.
    listed = _LISTED.search(text)
    if listed:
        rows = re.findall(r"\{([\d,]+)\}", listed[1])
        return [_integers(row) for row in rows]

    # Without either, all chips are one group.
    return [list(range(chips))]


def _integers(text: str) -> list[int]:
    """The numbers of a list such as "0,1,2"."""
    return [int(number) for number in text.split(",")]
