"""The largest arrays of a compiled program in the main memory of a chip."""

from collections.abc import Sequence
from typing import NamedTuple

from bnas_jax.plan.movement import FREE, OUTSIDE, Move


class Buffer(NamedTuple):
    """An array in the main memory."""

    # Its bytes, with padding and without.
    bytes: int
    useful: int
    # Its type, shape and layout.
    array: str
    # The layer of the instruction that makes it.
    layer: str


def largest(found: Sequence[Move], count: int = 10) -> list[Buffer]:
    """The largest results and arguments in the main memory, the largest first."""
    no_results = FREE - {"parameter"}
    buffers = []
    for move in found:
        instruction = move.instruction
        opcode = instruction.opcode
        if opcode in no_results or opcode.endswith("-done"):
            continue
        layer = instruction.layer or OUTSIDE
        if opcode == "parameter":
            layer = "argument"
        for array in instruction.made:
            sizes = ",".join(map(str, array.shape))
            name = f"{array.dtype}[{sizes}]{array.layout}"
            buffer = Buffer(array.bytes, array.useful, array=name, layer=layer)
            buffers.append(buffer)
    return sorted(buffers, key=lambda buffer: -buffer.bytes)[:count]
