"""The collectives of a compiled program: which chips take part, and what they send."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bnas_jax.plan.compiled_text import COLLECTIVES, Instruction
from bnas_jax.plan.movement import Move

# The groups of a collective: listed as {{0,1},{2,3}}, or as a reshaped range,
# [2,2]<=[4] or [2,2]<=[2,2]T(1,0).
_LISTED = re.compile(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{}]*\})\}")
_IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")


class Message(NamedTuple):
    """The collectives of a step that have the same kind and the same size of groups."""

    # XLA's name: "all-reduce".
    kind: str
    # The number of these collectives in a step.
    number: int
    # The least number of bytes that each chip sends, in all of them.
    bytes: float
    # The number of chips in a group.
    group: int
    # Whether any of the groups spans several hosts.
    between_hosts: bool


def messages(
    found: Sequence[Move], *, chips: int, chips_per_host: int, switch_adds: bool = False
) -> list[Message]:
    """The collectives of a step, by kind and size of their groups.

    chips: the number of chips that run the program.
    switch_adds: see `_sent`.
    """
    total: dict[tuple[str, int], Message] = {}
    for move in found:
        instruction = move.instruction
        kind = instruction.opcode.removesuffix("-start")
        if kind not in COLLECTIVES:
            continue

        # The chips that take part.
        groups = _groups(instruction.text, chips)
        group = max(map(len, groups))
        apart = any(_spans_hosts(each, chips_per_host) for each in groups)

        # Add it to the others of its kind and size of groups.
        sent = _sent(kind, instruction, group, switch_adds=switch_adds)
        none_yet = Message(kind, number=0, bytes=0, group=group, between_hosts=False)
        before = total.get((kind, group), none_yet)
        total[kind, group] = before._replace(
            number=before.number + instruction.trips,
            bytes=before.bytes + sent * instruction.trips,
            between_hosts=before.between_hosts or apart,
        )
    return [total[key] for key in sorted(total)]


def _spans_hosts(group: Sequence[int], chips_per_host: int) -> bool:
    """Whether the chips of a group are in several hosts."""
    hosts = {chip // chips_per_host for chip in group}
    return len(hosts) > 1


def _sent(
    kind: str, instruction: Instruction, group: int, *, switch_adds: bool
) -> float:
    """The least number of bytes that each chip of a group sends in one collective.

    With n the bytes of the result and g the number of chips in the group:

    - all-reduce: 2 n (g - 1) / g, or n (g - 1) / g if the switch between the chips adds
      up (`switch_adds`);
    - reduce-scatter: n (g - 1), the parts of the other chips, also with such a switch;
    - collective-permute, collective-broadcast: n;
    - all-gather, all-to-all: n (g - 1) / g.
    """
    size = sum(array.useful for array in instruction.made)
    share = (group - 1) / group
    if kind == "all-reduce":
        return size * (share if switch_adds else 2 * share)
    if kind == "reduce-scatter":
        return size * (group - 1)
    if kind in ("collective-permute", "collective-broadcast"):
        return size
    return share * size


def _groups(text: str, chips: int) -> list[list[int]]:
    """The chips of each group of a collective, or of each (source, target) pair.

    text: the instruction's attributes.
    """
    # A range, reshaped and perhaps transposed, with a group in each row.
    iota = _IOTA.search(text)
    if iota:
        count, size = int(iota[1]), int(iota[2])
        shape = _integers(iota[3])
        order = np.arange(np.prod(shape)).reshape(shape)
        if iota[4]:
            order = order.transpose(_integers(iota[4]))
        return order.reshape(count, size).tolist()

    # A list of groups or of pairs.
    listed = _LISTED.search(text)
    if listed:
        rows = re.findall(r"\{([\d,]+)\}", listed[1])
        return [_integers(row) for row in rows]

    # Without either, all chips are one group.
    return [list(range(chips))]


def _integers(text: str) -> list[int]:
    """The numbers of a list such as "0,1,2"."""
    return [int(number) for number in text.split(",")]
