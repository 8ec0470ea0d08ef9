"""The operations of a compiled program, and the bytes that it moves and sends.

They are read from the program's text, so that its devices need not be there.
"""

from typing import NamedTuple

import jax
from jax.extend import core

from bnas_jax.plan import collectives, compiled_text, movement
from bnas_jax.plan.collectives import Message
from bnas_jax.plan.movement import Move
from bnas_jax.plan.products import products
from bnas_jax.plan.roofline import Work


class Read(NamedTuple):
    """The work of a compiled program, in total and by instruction."""

    # The work of one chip.
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

    Operations are the larger of XLA's count and that of `products`: XLA counts a loop
    once, and its compiler for GPUs counts nothing.

    traced: the program before it was compiled; None leaves only XLA's count.
    chips: the number of chips that run the program together.
    switch_adds: see `chips.Chip`.
    """
    # The bytes that are moved in the main memory, and sent between chips.
    moves = movement.moves(compiled_text.read(compiled.as_text() or ""))
    messages = collectives.messages(
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
