"""What a compiled program moves: bytes of its main memory by layer, and messages between chips."""

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bnas_jax.plan.compiled_text import Array, Instruction

# Instructions that move nothing by themselves.
_FREE = {
    "parameter",
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
_COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "collective-permute",
    "all-to-all",
)
_LISTED = re.compile(r"replica_groups=\{(\{[\d,{}]*\})\}")
_IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
# Instructions that no module of the network asked for.
OUTSIDE = "optimizer, data and the rest of the step"


class Buffer(NamedTuple):
    """A result in the main memory. bytes: with padding; useful: without. array: its type and shape."""

    bytes: int
    useful: int
    array: str
    layer: str


class Message(NamedTuple):
    """Collectives of one kind. bytes: that each chip sends at least, in all of them. group: chips that take part in each.
    between_hosts: whether any such group spans several hosts."""

    kind: str
    number: int
    bytes: float
    group: int
    between_hosts: bool


def moved(program: Sequence[Instruction], *, padding: bool = True) -> list[int]:
    """Bytes of the main memory that each instruction reads or writes when it runs once, each operand once.

    padding: with what fills the tiles of arrays.
    """

    def size(array: Array) -> int:
        return array.padded if padding else array.useful

    sizes = {}
    for instruction in program:
        in_memory = [array for array in instruction.arrays if not array.on_chip]
        sizes[instruction.name] = sum(size(array) for array in in_memory)
    found = []
    for instruction in program:
        read = sum(sizes.get(name, 0) for name in instruction.operands)
        if _is_free(instruction):
            found.append(0)
        elif instruction.opcode == "slice-start":
            # Of what it names, (whole, part, ...), it reads as much as it writes.
            part = instruction.arrays[1]
            found.append(size(part) if part.on_chip else 2 * size(part))
        elif instruction.opcode.endswith("-start"):
            # Its result names what is read, too.
            found.append(sizes[instruction.name])
        else:
            found.append(read + sizes[instruction.name])
    return found


def _is_free(instruction: Instruction) -> bool:
    """Whether it moves nothing by itself."""
    if instruction.opcode in _FREE or instruction.opcode.endswith("-done"):
        return True
    return instruction.target in _FREE_CALLS


def by_layer(program: Sequence[Instruction]) -> dict[str, int]:
    """Layer -> bytes of the main memory that a step moves for it, most first."""
    total: dict[str, int] = defaultdict(int)
    for instruction, size in zip(program, moved(program), strict=True):
        total[instruction.layer or OUTSIDE] += size * instruction.trips
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def useful(program: Sequence[Instruction]) -> int:
    """The bytes of `by_layer` in all, without padding."""
    sizes = moved(program, padding=False)
    return sum(size * each.trips for each, size in zip(program, sizes, strict=True))


def repeats(program: Sequence[Instruction]) -> float:
    """How many times more is moved than if each loop ran once, as XLA's own counts have it."""
    once = moved(program)
    every = [size * each.trips for each, size in zip(program, once, strict=True)]
    return sum(every) / max(sum(once), 1) or 1.0


def largest_buffers(program: Sequence[Instruction], count: int = 10) -> list[Buffer]:
    """The largest results, arguments included."""
    found = []
    for instruction in program:
        if instruction.opcode in _FREE - {"parameter"} or instruction.opcode.endswith("-done"):
            continue
        for array in instruction.arrays:
            sizes = ",".join(map(str, array.shape))
            name = f"{array.dtype}[{sizes}]{array.layout}"
            layer = instruction.layer or OUTSIDE
            if instruction.opcode == "parameter":
                layer = "argument"
            found.append(Buffer(array.bytes, array.useful, name, layer))
    return sorted(found, key=lambda buffer: -buffer.bytes)[:count]


def messages(program: Sequence[Instruction], *, chips: int, chips_per_host: int) -> list[Message]:
    """The collectives of a step, by kind and size of their groups."""
    found: dict[tuple[str, int], list[tuple[int, float, bool]]] = defaultdict(list)
    for instruction in program:
        kind = instruction.opcode.removesuffix("-start")
        if kind not in _COLLECTIVES:
            continue
        groups = _groups(instruction.text, chips)
        hosts = groups // chips_per_host
        apart = bool(np.any(hosts != hosts[:, :1]))
        size = groups.shape[1]
        sent = _sent(kind, instruction, size)
        found[kind, size].append((instruction.trips, sent * instruction.trips, apart))
    return [
        Message(
            kind=kind,
            number=sum(number for number, _, _ in each),
            bytes=sum(sent for _, sent, _ in each),
            group=size,
            between_hosts=any(apart for _, _, apart in each),
        )
        for (kind, size), each in sorted(found.items())
    ]


def _sent(kind: str, instruction: Instruction, group: int) -> float:
    """Bytes that each chip of a group has to send, at least.

    An all-reduce is a reduce-scatter and an all-gather, of which each sends all parts but its own.
    """
    useful = [array.useful for array in instruction.arrays]
    if instruction.opcode.endswith("-start") and kind != "all-reduce":
        useful = useful[-1:]  # the others are what is sent
    size = sum(useful)
    share = (group - 1) / group
    if kind == "all-reduce":
        return 2 * share * size
    if kind == "reduce-scatter":
        return (group - 1) * size
    if kind == "collective-permute":
        return size
    return share * size


def _groups(text: str, chips: int) -> np.ndarray:
    """int (groups, chips in each)."""
    iota = _IOTA.search(text)
    if iota:
        count, size, shape = int(iota[1]), int(iota[2]), [int(n) for n in iota[3].split(",")]
        order = np.arange(np.prod(shape)).reshape(shape)
        if iota[4]:
            order = order.transpose([int(n) for n in iota[4].split(",")])
        return order.reshape(count, size)
    listed = _LISTED.search(text)
    if listed:
        rows = re.findall(r"\{([\d,]+)\}", listed[1])
        return np.array([[int(n) for n in row.split(",")] for row in rows])
    return np.arange(chips).reshape(1, chips)
