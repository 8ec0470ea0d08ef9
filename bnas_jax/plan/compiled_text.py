"""Reads the text of a compiled program (XLA's HLO).

The text has the instructions, the layouts of their arrays in memory, and for each
instruction the module of the network that it belongs to. For instance:

    %conv.8 = f32[16,32,32,36]{3,0,2,1:T(8,128)} convolution(%a, %b),
    dim_labels=b01f_01io->b01f, metadata={op_name="..."}

The layout of an array is in braces: first the dimensions from minor to major. T(8,128)
are tiles, to whose size the minor dimensions are padded. S(1) is a memory on the chip,
in place of the main memory.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from bnas_jax.plan.layer_names import layer_of

# XLA's name of a type -> the bits of a number in memory.
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
# An array: type, shape, order of its dimensions, tiles and memory.
_ARRAY = re.compile(
    r"\b([a-z]+\d*(?:e\d+m\d+[a-z]*)?)\[([\d,]*)\](?:\{([\d,]*)(?::([^}]*))?\})?"
)
_TILE = re.compile(r"T\(([\d,]+)\)")
_SPACE = re.compile(r"S\(\d+\)")
# The first line of a computation, and one of its instructions.
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%([\w.\-]+) = (.*)")
_OPERAND = re.compile(r"%([\w.\-]+)")
# Attributes of an instruction: JAX's name for it, the number of iterations of a loop,
# and the computations that it calls.
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
# Asynchronous collectives whose results are a tuple of their operands and then of the
# arrays that they make.
NAME_OPERANDS = {
    "all-gather-start",
    "all-to-all-start",
    "collective-broadcast-start",
    "ragged-all-to-all-start",
    "reduce-scatter-start",
}
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
# Instructions that compute nothing: they only name or move existing arrays.
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
    # Whether it is in a memory on the chip instead of the main memory.
    on_chip: bool = False

    @property
    def bytes(self) -> int:
        """The bytes of main memory that it takes."""
        return 0 if self.on_chip else self.padded


class Instruction(NamedTuple):
    """One instruction of a compiled program: a line of its text."""

    name: str
    # XLA's name of the operation: "convolution", "fusion".
    opcode: str
    # Its result: one array, or the arrays of a tuple.
    arrays: tuple[Array, ...]
    # The text between its parentheses.
    arguments: str
    # The names of its operands, which are instructions.
    operands: tuple[str, ...]
    # The module of the network that it belongs to, "" if it belongs to none.
    layer: str
    # Its attributes: the text after the parentheses.
    text: str
    # Whether its result is the result of its computation.
    root: bool = False
    # How often it runs in a step.
    trips: int = 1
    # Whether it is part of a fusion, to which the bytes that move are attributed.
    within: bool = False

    @property
    def bytes(self) -> int:
        """The bytes of main memory that its result takes."""
        return sum(array.bytes for array in self.arrays)

    @property
    def made(self) -> tuple[Array, ...]:
        """The arrays that it makes.

        The result of an asynchronous instruction also contains the arrays that it
        reads; these are left out.
        """
        # (made, read, ...)
        if self.opcode == "copy-start":
            return self.arrays[:1]
        # (read, made, ...)
        second = ("slice-start", "dynamic-slice-start", "collective-permute-start")
        if self.opcode in second:
            return self.arrays[1:2]
        # (read, ..., made, ...)
        if self.opcode in NAME_OPERANDS:
            return self.arrays[len(self.operands) :]
        return self.arrays

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
        """The number of iterations of a loop, None where XLA does not write it down."""
        noted = _found(_TRIPS, self.text)
        return int(noted) if noted else None

    @property
    def tuple_index(self) -> int | None:
        """The index of the tuple's entry that it takes, None for other instructions."""
        place = _found(_INDEX, self.text)
        return int(place) if place else None

    @property
    def branches(self) -> list[str]:
        """The names of the computations among which a conditional chooses."""
        listed = _BRANCHES.search(self.text)
        if listed:
            return _OPERAND.findall(listed[1])
        return _TWO_BRANCHES.findall(self.text)


def _found(pattern: re.Pattern[str], text: str) -> str:
    """The first group of the pattern's first match in the text, "" without a match."""
    match = pattern.search(text)
    return match[1] if match else ""


class Program(NamedTuple):
    """A compiled program."""

    # Name of a computation -> its instructions, in order.
    computations: Mapping[str, tuple[Instruction, ...]]
    # The name of the computation that runs when the program is called.
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

    # Instructions without JAX's name belong to the layer of the array that they move.
    named = {}
    for name, lines in computations.items():
        named[name] = tuple(_with_layers(lines))
    return Program(computations=named, entry=entry)


def _with_layers(computation: list[Instruction]) -> list[Instruction]:
    """The instructions of a computation, with a layer also for those that move arrays.

    An instruction that only moves an array may have no name from JAX: it belongs to the
    layer that made the array.
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
    """The arrays in the text of a type: one, or those of a tuple."""
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
    # JAX's name contains the module; without a name, there is none.
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
    """Splits a text at the first `end` outside of brackets: (before it, after it)."""
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
    """The arrays in the text of a type, one after the other."""
    for dtype, sizes, order, layout in _ARRAY.findall(text):
        # The names of 8-bit floats have the number of exponent bits: f8e4m3fn. Tokens
        # and the like have no bytes.
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
    """The sizes of an array's dimensions, major to minor, padded to whole tiles."""
    minor_to_major = [int(axis) for axis in order.split(",") if axis]
    sizes = [shape[axis] for axis in reversed(minor_to_major)] or list(shape)
    tile = _TILE.search(layout)
    # A scalar has no tiles.
    if tile is None or not sizes:
        return sizes

    # The first tile divides the last dimensions; an array may have fewer dimensions.
    # Further tiles, within the first one, are for packed types and pad nothing.
    of_tile = [int(size) for size in tile[1].split(",")]
    sizes = [1] * (len(of_tile) - len(sizes)) + sizes
    first = len(sizes) - len(of_tile)
    for axis, size in enumerate(of_tile, first):
        tiles = -(-sizes[axis] // size)  # rounded up
        sizes[axis] = tiles * size
    return sizes
