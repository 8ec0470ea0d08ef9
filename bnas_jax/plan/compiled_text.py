"""The text of a compiled program (XLA's HLO), read: its instructions, their arrays as they lie in memory, who asked for them.

    %conv.8 = f32[16,32,32,36]{3,0,2,1:T(8,128)} convolution(%a, %b), dim_labels=b01f_01io->b01f, metadata={op_name="..."}

An array's layout names its dimensions from the minor to the major one; T(8,128) are tiles, to whose size the minor dimensions
are padded; S(1) is a memory of the chip's own that is not its main memory.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_BITS = {
    "pred": 8,
    "s4": 4,
    "u4": 4,
    "s8": 8,
    "u8": 8,
    "s16": 16,
    "u16": 16,
    "bf16": 16,
    "f16": 16,
    "s32": 32,
    "u32": 32,
    "f32": 32,
    "s64": 64,
    "u64": 64,
    "f64": 64,
    "c64": 64,
    "c128": 128,
}
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\](?:\{([\d,]*)(?::([^}]*))?\})?")
_TILE = re.compile(r"T\(([\d,]+)\)")
_SPACE = re.compile(r"S\(\d+\)")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{")
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%([\w.\-]+) = (.*)")
_OPERAND = re.compile(r"%([\w.\-]+)")
_NAME = re.compile(r'op_name="([^"]*)"')
_TRIPS = re.compile(r'known_trip_count"?:\{"n":"(\d+)"')
_CALLED = re.compile(r"(?:body|calls|to_apply)=%([\w.\-]+)")
_BODY = re.compile(r"body=%([\w.\-]+)")
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
# Parts of an instruction's name that are no module: transformations, jitted functions, methods.
_NO_MODULE = re.compile(
    r".*[().].*|.*->.*|branch_\d+_fun|checkpoint|rematted_computation|while|body|cond|closed_call"
)
# Instructions that compute nothing.
_MOVES = {
    "bitcast",
    "concatenate",
    "copy",
    "copy-done",
    "copy-start",
    "custom-call",
    "get-tuple-element",
    "opt-barrier",
    "reshape",
    "slice",
    "slice-done",
    "slice-start",
    "transpose",
    "tuple",
}
_MODEL = re.compile(r"(?:^|[/(])(?:Network|Supernet|[A-Z]\w*)\)+/")


class Array(NamedTuple):
    """An array of the program. dtype: XLA's name. padded: bytes with padding; useful: without. on_chip: whether it lies in a
    memory that is not the main one."""

    dtype: str
    shape: tuple[int, ...]
    layout: str
    padded: int
    useful: int
    on_chip: bool = False

    @property
    def bytes(self) -> int:
        """What it takes of the main memory."""
        return 0 if self.on_chip else self.padded


class Instruction(NamedTuple):
    """arrays: of its result. trips: how often it runs in a step. layer: the network's module that asked for it, "" of others.
    text: what stands behind the operands."""

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    layer: str
    trips: int
    text: str

    @property
    def bytes(self) -> int:
        """Of the result, in the main memory."""
        return sum(array.bytes for array in self.arrays)

    @property
    def target(self) -> str:
        """Of a call into a library."""
        found = _TARGET.search(self.text)
        return found[1] if found else ""


def instructions(text: str) -> list[Instruction]:
    """The instructions that a call of the program runs, those of loops with their number of trips.

    What is inside a fusion is not listed: it makes one pass over memory.
    """
    computations, entry = _computations(text)
    found: list[Instruction] = []

    def visit(name: str, trips: int) -> None:
        for line in computations.get(name, ()):
            made = _instruction(line, trips)
            if made is None:
                continue
            found.append(made)
            if made.opcode == "while":
                known = _TRIPS.search(made.text)
                body = _BODY.search(made.text)
                if body:
                    visit(body[1], trips * int(known[1]) if known else trips)
            elif made.opcode in ("call", "conditional"):
                for called in _CALLED.findall(made.text):
                    visit(called, trips)

    visit(entry, 1)
    return _with_layers(found)


def _with_layers(program: list[Instruction]) -> list[Instruction]:
    """What only moves an array has no name: it belongs to the layer that made the array."""
    layers: dict[str, str] = {}
    found = []
    for instruction in program:
        if not instruction.layer and instruction.opcode in _MOVES:
            made = [layers[name] for name in instruction.operands if layers.get(name)]
            instruction = instruction._replace(layer=made[0] if made else "")
        layers[instruction.name] = instruction.layer
        found.append(instruction)
    return found


def arrays(text: str) -> tuple[Array, ...]:
    """The arrays that a type names, one or a tuple's."""
    return tuple(_arrays(text))


def layer_of(name: str) -> str:
    """The module of the network in an instruction's name, "" where there is none.

    `layer_of("jit(step)/shard_map/transpose(jvp(Network))/cell0/layer1/bn/reduce_sum")` is "cell0/layer1/bn".
    """
    found = _MODEL.search(name)
    if found is None:
        return ""
    parts = []
    for part in name[found.end() :].split("/")[:-1]:
        if _MODEL.match(f"{part}/") or part.startswith("transpose(transpose"):
            break  # a derivative names the module once more
        if not _NO_MODULE.fullmatch(part):
            parts.append(part)
    return "/".join(parts)


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """(name -> lines of each computation, the name of the first that runs)"""
    computations: dict[str, list[str]] = {}
    lines: list[str] = []
    entry = ""
    for line in text.splitlines():
        head = _COMPUTATION.match(line)
        if head:
            lines = computations.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif line.startswith(" "):
            lines.append(line)
    return computations, entry


def _instruction(line: str, trips: int) -> Instruction | None:
    found = _INSTRUCTION.match(line)
    if found is None:
        return None
    kind, rest = _balanced(found[2], " ")
    opcode, _, rest = rest.lstrip().partition("(")
    operands, rest = _balanced(rest, ")")
    named = _NAME.search(rest)
    return Instruction(
        name=found[1],
        opcode=opcode,
        arrays=arrays(kind),
        operands=tuple(_OPERAND.findall(operands)),
        layer=layer_of(named[1]) if named else "",
        trips=trips,
        text=rest,
    )


def _balanced(text: str, end: str) -> tuple[str, str]:
    """(what stands before the first `end` that is in no brackets, what stands behind it)"""
    depth = 0
    for position, character in enumerate(text):
        if character == end and depth == 0:
            return text[:position], text[position + 1 :]
        if character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
    return text, ""


def _arrays(text: str) -> Iterator[Array]:
    for dtype, sizes, order, layout in _ARRAY.findall(text):
        if dtype not in _BITS:
            continue
        shape = tuple(int(size) for size in sizes.split(",") if size)
        useful = math.prod(shape) * _BITS[dtype] // 8
        padded = math.prod(_padded(shape, order, layout)) * _BITS[dtype] // 8
        yield Array(
            dtype=dtype,
            shape=shape,
            layout="{" + order + "}",
            padded=padded,
            useful=useful,
            on_chip=_SPACE.search(layout) is not None,
        )


def _padded(shape: tuple[int, ...], order: str, layout: str) -> list[int]:
    """The sizes from the major to the minor dimension, with padding to whole tiles."""
    minor_to_major = [int(axis) for axis in order.split(",") if axis]
    sizes = [shape[axis] for axis in reversed(minor_to_major)] or list(shape)
    tile = _TILE.search(layout)
    if tile is None:
        return sizes
    # The first tile is of the last dimensions; those within it (of packed types) add nothing.
    of_tile = [int(size) for size in tile[1].split(",")]
    for back, size in enumerate(reversed(of_tile[-len(sizes) :] if sizes else []), 1):
        sizes[-back] = -(-sizes[-back] // size) * size
    return sizes
