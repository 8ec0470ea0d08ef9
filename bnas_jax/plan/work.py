"""What a compiled program computes, moves and sends.

It is read from the program's text: whether its devices are there does not matter.
"""

from typing import NamedTuple

import jax
from jax.extend import core

from bnas_jax.plan import compiled_text, movement
from bnas_jax.plan.movement import Message, Move
from bnas_jax.plan.products import products
from bnas_jax.plan.roofline import Work


class Read(NamedTuple):
    """What a compiled program does."""

    # Of one chip.
    work: Work
    moves: list[Move]
    messages: list[Message]


def read(
    compiled: jax.stages.Compiled,
    traced: core.Jaxpr | None,
    *,
    chips: int,
    chips_per_host: int,
    switch_adds: bool,
) -> Read:
    """Reads a compiled program, as one of the chips runs it.

    Its operations are XLA's count or those of products alone, whichever is more: XLA
    counts a loop once, and its compiler for GPUs counts nothing.

    traced: the program before it was compiled; None counts no products.
    chips: how many run the program together.
    switch_adds: see `chips.Chip`.
    """
    # Bytes of the main memory, and between chips.
    moves = movement.moves(compiled_text.read(compiled.as_text() or ""))
    messages = movement.messages(
        moves,
        chips=chips,
        chips_per_host=chips_per_host,
        switch_adds=switch_adds,
    )

    # Operations: the larger of the two counts.
    counts = compiled.cost_analysis() or {}
    operations = counts.get("flops", 0.0)
    if traced is not None:
        operations = max(operations, products(traced))
    work = Work(
        operations=operations,
        moved=sum(move.bytes for move in moves),
        sent=sum(message.bytes for message in messages),
    )
    return Read(work=work, moves=moves, messages=messages)
