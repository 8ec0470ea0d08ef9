"""What a compiled program computes, moves and sends, whether its devices are there or
not.
"""

from typing import NamedTuple

import jax
from jax.extend import core

from bnas_jax.plan import compiled_text, movement
from bnas_jax.plan.movement import Message, Move
from bnas_jax.plan.products import products
from bnas_jax.plan.roofline import Work


class Read(NamedTuple):
    """A compiled program, read. work: of one chip."""

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
    """The program for one of these chips.

    Its operations are XLA's count or those of products alone, whichever is more: XLA
    counts a loop once, and its compiler for GPUs counts nothing. traced: None counts no
    products. switch_adds: see `chips.Chip`.
    """
    moves = movement.moves(compiled_text.read(compiled.as_text() or ""))
    messages = movement.messages(
        moves,
        chips=chips,
        chips_per_host=chips_per_host,
        switch_adds=switch_adds,
    )
    operations = (compiled.cost_analysis() or {}).get("flops", 0.0)
    if traced is not None:
        operations = max(operations, products(traced))
    work = Work(
        operations=operations,
        moved=sum(move.bytes for move in moves),
        sent=sum(message.bytes for message in messages),
    )
    return Read(work=work, moves=moves, messages=messages)
