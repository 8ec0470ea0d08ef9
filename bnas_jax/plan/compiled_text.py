"""The text of a compiled program (XLA's HLO), read: its instructions, their arrays as
they lie in memory, who asked for them.

    %conv.8 = f32[16,32,32,36]{3,0,2,1:T(8,128)} convolution(%a, %b),
    dim_labels=b01f_01io->b01f, metadata={op_name="..."}

An array's layout names its dimensions from the minor to the major one; T(8,128) are
tiles, to whose size the minor dimensions are padded; S(1) is a memory of the chip's own
that is not its main memory.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

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
_ARRAY = re.compile(
    r"\b([a-z]+\d*(?:e\d+m\d+[a-z]*)?)\[([\d,]*)\](?:\{([\d,]*)(?::([^}]*))?\})?"
)
_TILE = re.compile(r"T\(([\d,]+)\)")
_SPACE = re.compile(r"S\(\d+\)")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%([\w.\-]+) = (.*)")
_OPERAND = re.compile(r"%([\w.\-]+)")
_NAME = re.compile(r'op_name="([^"]*)"')
_TRIPS = re.compile(r'known_trip_count"?:\{"n":"(\d+)"')
_BODY = re.compile(r"body=%([\w.\-]+)")
_CALLED = re.compile(r"(?:calls|to_apply)=%([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TWO_BRANCHES = re.compile(r"(?:true|false)_computation=%([\w.\-]+)")
# A collective that a TPU does beside other work stands within a fusion that begins it.
_BEGINS = "AsyncCollectiveStart"
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
# Parts of an instruction's name that are no module: transformations, jitted functions,
# methods.
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
# The network, perhaps with its method and within transformations: "jvp(Network)/",
# "transpose(jvp(Supernet.mixture))/".
_MODEL = re.compile(r"(?:^|[/(])[A-Z][\w.]*\)*/")
# A derivative, which names the network once more.
_AGAIN = re.compile(r"\w+\(.*[A-Z].*\)")


class Array(NamedTuple):
    """An array of the program. dtype: XLA's name. padded: bytes with padding; useful:
    without. on_chip: whether it lies in a memory that is not the main one.
    """

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
    """One instruction of a compiled program: a line of its text."""

    name: str
    # What it does, by XLA's name: "convolution", "fusion".
    opcode: str
    # Its result: one array, or those of a tuple.
    arrays: tuple[Array, ...]
    # What stands between its parentheses, and the names of other instructions in it.
    arguments: str
    operands: tuple[str, ...]
    # The module of the network that asked for it, "" where none did.
    layer: str
    # What stands behind the parentheses: its attributes.
    text: str
    # Whether its result is that of the computation it stands in.
    root: bool = False
    # How often it runs in a step.
    trips: int = 1
    # Whether it is part of a fusion, which moves data for it.
    within: bool = False

    @property
    def bytes(self) -> int:
        """Of the result, in the main memory."""
        return sum(array.bytes for array in self.arrays)

    @property
    def target(self) -> str:
        """Of a call into a library."""
        found = _TARGET.search(self.text)
        return found[1] if found else ""

    @property
    def called(self) -> str:
        """The computation of a fusion or a call."""
        found = _CALLED.search(self.text)
        return found[1] if found else ""


class Program(NamedTuple):
    """computations: name -> instructions, in order. entry: the one that a call of the
    program runs.
    """

    computations: Mapping[str, tuple[Instruction, ...]]
    entry: str


def read(text: str) -> Program:
    """The program that a text is of."""
    computations: dict[str, list[Instruction]] = {}
    lines: list[Instruction] = []
    entry = ""
    for line in text.splitlines():
        head = _COMPUTATION.match(line)
        if head:
            lines = computations.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
            continue
        made = _instruction(line)
        if made is not None:
            lines.append(made)
    named = {name: tuple(_with_layers(lines)) for name, lines in computations.items()}
    return Program(computations=named, entry=entry)


def executed(program: Program) -> list[Instruction]:
    """The instructions that a call of the program runs, those of loops with their
    number of trips, 1 where it is not known.

    What is inside a fusion is not listed, but for a collective: a fusion makes one pass
    over memory. Of a condition the branch is listed that has the smallest results.
    """
    found: list[Instruction] = []
    for instruction in program.computations.get(program.entry, ()):
        found += _runs(program, instruction, trips=1)
    return found


def _runs(
    program: Program, instruction: Instruction, *, trips: int
) -> list[Instruction]:
    """The instruction, and those of what it calls."""
    found = [instruction._replace(trips=trips)]
    if instruction.opcode == "while":
        known, body = _TRIPS.search(instruction.text), _BODY.search(instruction.text)
        times = int(known[1]) if known else 1
        return found + _body(program, body[1] if body else "", trips=trips * times)
    if instruction.opcode == "call":
        return found + _body(program, instruction.called, trips=trips)
    if instruction.opcode == "conditional":
        branches = [
            _body(program, name, trips=trips) for name in _branches(instruction)
        ]
        smallest = min(
            branches, key=lambda branch: sum(each.bytes for each in branch), default=[]
        )
        return found + smallest
    if instruction.opcode == "fusion":
        found += _begun(program, instruction, trips=trips)
    return found


def _body(program: Program, name: str, *, trips: int) -> list[Instruction]:
    """What a loop, a call or a branch runs.

    Its parameters are no arrays of their own.
    """
    found = []
    for instruction in program.computations.get(name, ()):
        if instruction.opcode == "parameter":
            instruction = instruction._replace(opcode="inner-parameter")
        found += _runs(program, instruction, trips=trips)
    return found


def _branches(instruction: Instruction) -> list[str]:
    listed = _BRANCHES.search(instruction.text)
    if listed:
        return _OPERAND.findall(listed[1])
    return _TWO_BRANCHES.findall(instruction.text)


def _begun(program: Program, fusion: Instruction, *, trips: int) -> list[Instruction]:
    """The collective that a fusion begins, if it does."""
    inside = program.computations.get(fusion.called, ())
    if all(each.target != _BEGINS for each in inside):
        return []
    return [
        each._replace(trips=trips, within=True)
        for each in inside
        if each.opcode in COLLECTIVES
    ]


def _with_layers(computation: list[Instruction]) -> list[Instruction]:
    """What only moves an array has no name: it belongs to the layer that made the
    array.
    """
    layers: dict[str, str] = {}
    found = []
    for instruction in computation:
        if not instruction.layer and instruction.opcode in _MOVES:
            made = [layers[name] for name in instruction.operands if layers.get(name)]
            instruction = instruction._replace(layer=made[0] if made else "")
        layers[instruction.name] = instruction.layer
        found.append(instruction)
    return found


def arrays(text: str) -> tuple[Array, ...]:
    """The arrays that a type names, one or a tuple's."""
    return tuple(_arrays(text))


# Such as batch norms that the cells behind it share.
NETWORK = "the network between its cells"


def layer_of(name: str) -> str:
    """The module of the network in an instruction's name, `NETWORK` of what it does
    between its modules, "" of all else.

    `layer_of("jit(step)/shard_map/transpose(jvp(Network))/cell0/layer1/bn/reduce_sum")`
    is "cell0/layer1/bn".
    """
    found = _MODEL.search(name)
    if found is None:
        return ""
    parts = []
    for part in name[found.end() :].split("/")[:-1]:
        if _AGAIN.fullmatch(part):
            break
        if not _NO_MODULE.fullmatch(part):
            parts.append(part)
    return "/".join(parts) or NETWORK


def _instruction(line: str) -> Instruction | None:
    found = _INSTRUCTION.match(line)
    if found is None:
        return None
    kind, rest = _balanced(found[3], " ")
    opcode, _, rest = rest.lstrip().partition("(")
    operands, rest = _balanced(rest, ")")
    named = _NAME.search(rest)
    return Instruction(
        name=found[2],
        opcode=opcode,
        arrays=arrays(kind),
        arguments=operands,
        operands=tuple(_OPERAND.findall(operands)),
        layer=layer_of(named[1]) if named else "",
        text=rest,
        root=found[1] is not None,
    )


def _balanced(text: str, end: str) -> tuple[str, str]:
    """(what stands before the first `end` that is in no brackets, what stands behind
    it)
    """
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
        # Short floats are named by their exponent: f8e4m3fn. Tokens and the like have
        # no bytes.
        bits = 8 if dtype.startswith("f8") else _BITS.get(dtype)
        if bits is None:
            continue
        shape = tuple(int(size) for size in sizes.split(",") if size)
        useful = math.prod(shape) * bits // 8
        padded = math.prod(_padded(shape, order, layout)) * bits // 8
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
    # A scalar has no tiles.
    if not sizes:
        return sizes
    # The first tile is of the last dimensions, of which an array may have fewer; tiles
    # within it (of packed types) add nothing.
    of_tile = [int(size) for size in tile[1].split(",")]
    sizes = [1] * (len(of_tile) - len(sizes)) + sizes
    first = len(sizes) - len(of_tile)
    for axis, size in enumerate(of_tile, first):
        sizes[axis] = -(-sizes[axis] // size) * size
    return sizes
