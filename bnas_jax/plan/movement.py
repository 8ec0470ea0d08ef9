"""What a compiled program moves: bytes of its main memory by layer, and messages
between chips.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from bnas_jax.plan.compiled_text import (
    COLLECTIVES,
    Array,
    Instruction,
    Program,
    executed,
)

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
# Calls of TPU programs that put a name to parts which lie side by side.
_FREE_CALLS = {"ConcatBitcast"}
# Instructions that take a part of their first operand, and read no more of it.
_PARTS = ("slice", "dynamic-slice", "gather")
_LISTED = re.compile(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{}]*\})\}")
_IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
# Instructions that no module of the network asked for.
OUTSIDE = "optimizer, data and the rest of the step"

# Bytes of an array, or 0 where it is not in the main memory.
Size = Callable[[Array], int]


class Buffer(NamedTuple):
    """A result in the main memory. bytes: with padding; useful: without. array: its
    type and shape.
    """

    bytes: int
    useful: int
    array: str
    layer: str


class Message(NamedTuple):
    """Collectives of one kind. bytes: that each chip sends at least, in all of them.
    group: chips that take part in each.
    between_hosts: whether any such group spans several hosts.
    """

    kind: str
    number: int
    bytes: float
    group: int
    between_hosts: bool


class Move(NamedTuple):
    """What an instruction of a step moves in all of its trips, in bytes of the main
    memory. useful: without padding.
    """

    instruction: Instruction
    bytes: int
    useful: int


def moves(program: Program) -> list[Move]:
    """What each instruction of a step reads and writes in the main memory: each operand
    once, a part where it takes a part.
    """
    run = executed(program)
    padded = _moved(program, run, lambda array: array.bytes)
    useful = _moved(program, run, lambda array: 0 if array.on_chip else array.useful)
    found = []
    for instruction, size, part in zip(run, padded, useful, strict=True):
        trips = instruction.trips
        found.append(Move(instruction, bytes=size * trips, useful=part * trips))
    return found


def by_layer(found: Sequence[Move]) -> dict[str, int]:
    """Layer -> bytes that a step moves for it, most first."""
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
    opcode = instruction.opcode
    free = (
        opcode in _FREE or opcode.endswith("-done") or instruction.target in _FREE_CALLS
    )
    if free or instruction.within:
        return 0
    result = sum(size(array) for array in instruction.arrays)
    operands = [
        made[name] for name in dict.fromkeys(instruction.operands) if name in made
    ]
    read = [sum(size(array) for array in each.arrays) for each in operands]
    if opcode in ("slice-start", "dynamic-slice-start"):
        # Of what it names, (whole, part, ...), it reads as much as it writes.
        return _bytes_read(instruction.arrays[1], size) + size(instruction.arrays[1])
    if opcode in ("copy-start", "all-gather-start", "collective-permute-start"):
        # Its result names what is read, too.
        return result
    if opcode in _PARTS:
        return 2 * result + sum(read[1:])
    if opcode in ("dynamic-update-slice", "scatter"):
        # In place: what is new is read and written.
        new = operands[-1 if opcode == "scatter" else 1]
        return 2 * sum(size(array) for array in new.arrays)
    if opcode == "fusion":
        return _moved_by_fusion(instruction, made, program, size)
    return sum(read) + result


def _bytes_read(part: Array, size: Size) -> int:
    """What is read of the main memory for a part that may lie on the chip."""
    return size(part._replace(on_chip=False))


def _moved_by_fusion(
    fusion: Instruction, made: Mapping[str, Instruction], program: Program, size: Size
) -> int:
    total = _written(fusion, program, size)
    positions: dict[str, list[int]] = defaultdict(list)
    for position, name in enumerate(fusion.operands):
        positions[name].append(position)
    for name, where in positions.items():
        if name not in made:
            continue
        whole = sum(size(array) for array in made[name].arrays)
        parts = [_read_of(program, fusion.called, position, size) for position in where]
        if whole and None not in parts:
            whole = min(whole, sum(part for part in parts if part is not None))
        total += whole
    return total


def _written(fusion: Instruction, program: Program, size: Size) -> int:
    """The bytes of a fusion's result that it writes: of an update in place, what is
    new.
    """
    inside = program.computations.get(fusion.called, ())
    whole = sum(size(array) for array in fusion.arrays)
    for each in inside:
        if each.root and each.opcode == "dynamic-update-slice":
            new = [other for other in inside if other.name == each.operands[1]]
            written = sum(
                _bytes_read(array, size) for other in new for array in other.arrays
            )
            return min(whole, written)
    return whole


def _read_of(
    program: Program, computation: str, position: int, size: Size
) -> int | None:
    """The bytes that a fusion reads of its operand at this position where it takes
    parts alone; None: all.
    """
    inside = program.computations.get(computation, ())
    names = {
        each.name
        for each in inside
        if each.opcode == "parameter" and each.arguments == str(position)
    }
    if not names:
        return None
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
            continue
        elif each.opcode == "fusion":
            parts = [_read_of(program, each.called, place, size) for place in taken]
            if None in parts:
                return None
            total += sum(part for part in parts if part is not None)
        else:
            return None
    return total


def largest_buffers(found: Sequence[Move], count: int = 10) -> list[Buffer]:
    """The largest results and arguments."""
    buffers = []
    for instruction in (move.instruction for move in found):
        opcode = instruction.opcode
        if opcode in _FREE - {"parameter"} or opcode.endswith("-done"):
            continue
        layer = instruction.layer or OUTSIDE
        if opcode == "parameter":
            layer = "argument"
        for array in _results(instruction):
            sizes = ",".join(map(str, array.shape))
            name = f"{array.dtype}[{sizes}]{array.layout}"
            buffers.append(Buffer(array.bytes, array.useful, name, layer))
    return sorted(buffers, key=lambda buffer: -buffer.bytes)[:count]


def _results(instruction: Instruction) -> tuple[Array, ...]:
    """The arrays that an instruction makes, without those that an asynchronous one
    reads.
    """
    found = instruction.arrays
    kind = instruction.opcode
    if kind == "copy-start":
        return found[:1]
    if kind in ("slice-start", "dynamic-slice-start", "collective-permute-start"):
        return found[1:2]
    if kind == "all-gather-start":
        return found[len(found) // 2 :]
    return found


def messages(
    found: Sequence[Move], *, chips: int, chips_per_host: int, switch_adds: bool = False
) -> list[Message]:
    """The collectives of a step, by kind and size of their groups. switch_adds: see
    `_sent`.
    """
    kinds: dict[tuple[str, int], list[tuple[int, float, bool]]] = defaultdict(list)
    for instruction in (move.instruction for move in found):
        kind = instruction.opcode.removesuffix("-start")
        if kind not in COLLECTIVES:
            continue
        groups = _groups(instruction.text, chips)
        apart = any(
            len({chip // chips_per_host for chip in group}) > 1 for group in groups
        )
        group = max(map(len, groups))
        sent = _sent(kind, instruction, group, switch_adds=switch_adds)
        kinds[kind, group].append((instruction.trips, sent * instruction.trips, apart))
    return [
        Message(
            kind=kind,
            number=sum(number for number, _, _ in each),
            bytes=sum(sent for _, sent, _ in each),
            group=group,
            between_hosts=any(apart for _, _, apart in each),
        )
        for (kind, group), each in sorted(kinds.items())
    ]


def _sent(
    kind: str, instruction: Instruction, group: int, *, switch_adds: bool
) -> float:
    """Bytes that each chip of a group has to send, at least.

    With n the bytes of the result and g the chips of the group:

    - all-reduce: 2 n (g - 1) / g, or n (g - 1) / g where the switch between the chips
      adds (`switch_adds`);
    - reduce-scatter: n (g - 1), or n with such a switch;
    - collective-permute, collective-broadcast: n;
    - all-gather, all-to-all: n (g - 1) / g.
    """
    size = sum(array.useful for array in _results(instruction))
    share = (group - 1) / group
    if kind == "all-reduce":
        return size * (share if switch_adds else 2 * share)
    if kind == "reduce-scatter":
        return size * (1 if switch_adds else group - 1)
    if kind in ("collective-permute", "collective-broadcast"):
        return size
    return share * size


def _groups(text: str, chips: int) -> list[list[int]]:
    """The chips of each group, or the two of each pair."""
    iota = _IOTA.search(text)
    if iota:
        count, size, shape = (
            int(iota[1]),
            int(iota[2]),
            [int(n) for n in iota[3].split(",")],
        )
        order = np.arange(np.prod(shape)).reshape(shape)
        if iota[4]:
            order = order.transpose([int(n) for n in iota[4].split(",")])
        return order.reshape(count, size).tolist()
    listed = _LISTED.search(text)
    if listed:
        rows = re.findall(r"\{([\d,]+)\}", listed[1])
        return [[int(n) for n in row.split(",")] for row in rows]
    return [list(range(chips))]
