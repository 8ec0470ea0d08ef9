"""Reads the text of a compiled program (XLA's HLO).

It gives the instructions, the layout of their arrays in memory, and the module of the
network that asked for each. For instance:

    %conv.8 = f32[16,32,32,36]{3,0,2,1:T(8,128)} convolution(%a, %b),
    dim_labels=b01f_01io->b01f, metadata={op_name="..."}

An array's layout stands in braces. It names the dimensions from the minor to the major
one. T(8,128) are tiles: the minor dimensions are padded to their size. S(1) is a memory
on the chip, in place of its main memory.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from bnas_jax.plan.layer_names import layer_of

# XLA's types of numbers -> bits of a number in memory.
_BITS = {
    "pred": 8,
    "s2": 2,
    "u2": 2,
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
# An array: type, shape, order of its dimensions, tiles and space.
_ARRAY = re.compile(
    r"\b([a-z]+\d*(?:e\d+m\d+[a-z]*)?)\[([\d,]*)\](?:\{([\d,]*)(?::([^}]*))?\})?"
)
_TILE = re.compile(r"T\(([\d,]+)\)")
_SPACE = re.compile(r"S\(\d+\)")
# The first line of a computation, and a line of it.
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%([\w.\-]+) = (.*)")
_OPERAND = re.compile(r"%([\w.\-]+)")
# Attributes of an instruction: the name that JAX gave it, how often a loop runs, and
# the computations that it calls.
_NAME = re.compile(r'op_name="([^"]*)"')
_TRIPS = re.compile(r'known_trip_count"?:\{"n":"(\d+)"')
_BODY = re.compile(r"body=%([\w.\-]+)")
_CONDITION = re.compile(r"condition=%([\w.\-]+)")
_INDEX = re.compile(r"\bindex=(\d+)")
_CALLED = re.compile(r"(?:calls|to_apply)=%([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TWO_BRANCHES = re.compile(r"(?:true|false)_computation=%([\w.\-]+)")
# Instructions by which chips send each other data.
COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "collective-permute",
    "collective-broadcast",
    "all-to-all",
    "ragged-all-to-all",
)
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
# Instructions that compute nothing: they name or move arrays that others made.
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


class Array(NamedTuple):
    """An array of a compiled program."""

    # XLA's name: f32, bf16.
    dtype: str
    shape: tuple[int, ...]
    # The order of its dimensions, minor to major: "{3,0,2,1}".
    layout: str
    # Bytes with padding, and without.
    padded: int
    useful: int
    # Whether it lies in a memory on the chip instead of the main one.
    on_chip: bool = False

    @property
    def bytes(self) -> int:
        """The bytes that it takes of the main memory."""
        return 0 if self.on_chip else self.padded


class Instruction(NamedTuple):
    """One instruction of a compiled program: a line of its text."""

    name: str
    # XLA's name for what it does: "convolution", "fusion".
    opcode: str
    # Its result: one array, or those of a tuple.
    arrays: tuple[Array, ...]
    # The text between its parentheses.
    arguments: str
    # The names of the instructions that it takes as operands.
    operands: tuple[str, ...]
    # The module of the network that asked for it, "" where none did.
    layer: str
    # Its attributes: the text behind the parentheses.
    text: str
    # Whether its result is the result of its computation.
    root: bool = False
    # How often it runs in a step.
    trips: int = 1
    # Whether it is part of a fusion, which moves data for it.
    within: bool = False

    @property
    def bytes(self) -> int:
        """The bytes that its result takes of the main memory."""
        return sum(array.bytes for array in self.arrays)

    @property
    def target(self) -> str:
        """The function of a library that it calls, "" for other instructions."""
        return _found(_TARGET, self.text)

    @property
    def called(self) -> str:
        """The name of the computation that a fusion or a call runs, "" for others."""
        return _found(_CALLED, self.text)

    @property
    def body(self) -> str:
        """The name of the computation that a loop repeats, "" for others."""
        return _found(_BODY, self.text)

    @property
    def condition(self) -> str:
        """The name of the computation that ends a loop, "" for others."""
        return _found(_CONDITION, self.text)

    @property
    def noted_repeats(self) -> int | None:
        """How often a loop runs its body, None where XLA does not note it."""
        noted = _found(_TRIPS, self.text)
        return int(noted) if noted else None

    @property
    def tuple_index(self) -> int | None:
        """The place of what it takes out of a tuple, None for other instructions."""
        place = _found(_INDEX, self.text)
        return int(place) if place else None

    @property
    def branches(self) -> list[str]:
        """The names of the computations that a condition chooses from."""
        listed = _BRANCHES.search(self.text)
        if listed:
            return _OPERAND.findall(listed[1])
        return _TWO_BRANCHES.findall(self.text)


def _found(pattern: re.Pattern[str], text: str) -> str:
    """The first group of a pattern where the text has it, else ""."""
    match = pattern.search(text)
    return match[1] if match else ""


class Program(NamedTuple):
    """A compiled program."""

    # Name of a computation -> its instructions, in order.
    computations: Mapping[str, tuple[Instruction, ...]]
    # The name of the computation that a call of the program runs.
    entry: str


def read(text: str) -> Program:
    """Reads the text of a compiled program."""
    # The instructions of each computation.
    computations: dict[str, list[Instruction]] = {}
    lines: list[Instruction] = []
    entry = ""
    for line in text.splitlines():
        head = _COMPUTATION.match(line)
        if head:
            lines = computations.setdefault(head[2], [])
            if head[1]:
                entry = head[2]
            continue
        made = _instruction(line)
        if made is not None:
            lines.append(made)

    # Instructions without a name belong to the layer of what they move.
    named = {}
    for name, lines in computations.items():
        named[name] = tuple(_with_layers(lines))
    return Program(computations=named, entry=entry)


def _with_layers(computation: list[Instruction]) -> list[Instruction]:
    """The instructions of a computation, all of them with their layers.

    An instruction that only moves an array may have no name of its own. It belongs to
    the layer that made the array.
    """
    layers: dict[str, str] = {}
    found = []
    for instruction in computation:
        if not instruction.layer and instruction.opcode in _MOVES:
            # The layer of its first operand that has one.
            made = [layers[name] for name in instruction.operands if layers.get(name)]
            layer = made[0] if made else ""
            instruction = instruction._replace(layer=layer)
        layers[instruction.name] = instruction.layer
        found.append(instruction)
    return found


def arrays(text: str) -> tuple[Array, ...]:
    """The arrays that a type names: one, or those of a tuple."""
    return tuple(_arrays(text))


def _instruction(line: str) -> Instruction | None:
    """The instruction of a line, None for a line without one."""
    found = _INSTRUCTION.match(line)
    if found is None:
        return None
    # NAME = TYPE OPCODE(OPERANDS), ATTRIBUTES
    kind, rest = _balanced(found[3], " ")
    opcode, _, rest = rest.lstrip().partition("(")
    operands, rest = _balanced(rest, ")")
    # JAX's name says which module asked for it; without one there is no module.
    named = _found(_NAME, rest)
    return Instruction(
        name=found[2],
        opcode=opcode,
        arrays=arrays(kind),
        arguments=operands,
        operands=tuple(_OPERAND.findall(operands)),
        layer=layer_of(named),
        text=rest,
        root=found[1] is not None,
    )


def _balanced(text: str, end: str) -> tuple[str, str]:
    """Splits a text at the first `end` outside of brackets: (before it, behind it)."""
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
    """The arrays that a type names, one after the other."""
    for dtype, sizes, order, layout in _ARRAY.findall(text):
        # Short floats are named by their exponent: f8e4m3fn. Tokens and the like have
        # no bytes.
        bits = 8 if dtype.startswith("f8") else _BITS.get(dtype)
        if bits is None:
            continue
        shape = tuple(int(size) for size in sizes.split(",") if size)
        padded_shape = _padded(shape, order, layout)
        useful = math.prod(shape) * bits // 8
        padded = math.prod(padded_shape) * bits // 8
        yield Array(
            dtype=dtype,
            shape=shape,
            layout="{" + order + "}",
            padded=padded,
            useful=useful,
            on_chip=_SPACE.search(layout) is not None,
        )


def _padded(shape: tuple[int, ...], order: str, layout: str) -> list[int]:
    """The sizes of an array, padded to whole tiles, from the major to the minor one."""
    minor_to_major = [int(axis) for axis in order.split(",") if axis]
    sizes = [shape[axis] for axis in reversed(minor_to_major)] or list(shape)
    tile = _TILE.search(layout)
    # A scalar has no tiles.
    if tile is None or not sizes:
        return sizes

    # The first tile divides the last dimensions; an array may have fewer of them. Tiles
    # within it (of packed types) add nothing.
    of_tile = [int(size) for size in tile[1].split(",")]
    sizes = [1] * (len(of_tile) - len(sizes)) + sizes
    first = len(sizes) - len(of_tile)
    for axis, size in enumerate(of_tile, first):
        tiles = -(-sizes[axis] // size)  # rounded up
        sizes[axis] = tiles * size
    return sizes
