"""How high everything in a cell's picture stands: lines as straight as they can be, and nothing on
top of another.
"""

import itertools
from collections.abc import Mapping

from bnas_jax.report.columns import CONCAT, OUTPUT, Columns, Item

BOX_HEIGHT = 20.0
_LANE_HEIGHT = 4.0
_GAP = 7.0
_SWEEPS = 61
# How much an item wants to be as high as another: lines that go on are straight before others are.
_STRAIGHT = 8


def heights(columns: Columns) -> list[dict[Item, float]]:
    """y of the middle of each item, column by column. y grows downwards."""
    ys = [_spread(column, dict.fromkeys(column, 0.0)) for column in columns.items]
    for sweep in range(_SWEEPS):
        numbers = list(range(len(ys)))
        if sweep % 2:
            numbers.reverse()
        for number in numbers:
            ys[number] = _spread(columns.items[number], _wanted(columns, ys, number))
    return ys


def item_height(item: Item) -> float:
    """The height of a box, or of a lane."""
    if item[0] == "lane":
        return _LANE_HEIGHT
    return BOX_HEIGHT


def _wanted(columns: Columns, ys: list[dict[Item, float]], number: int) -> dict[Item, float]:
    """For each item of a column the mean height of what it is joined to."""
    wanted = {}
    for item in columns.items[number]:
        joined = [(other, ys[number - 1][other]) for other in columns.before(number, item)]
        joined += [(other, ys[number + 1][other]) for other in columns.behind(number, item)]
        if joined:
            wanted[item] = _mean_height(item, joined)
    # An input that nothing uses stays with the other one.
    if not wanted:
        return ys[number]
    middle = _mean(list(wanted.values()))
    return {item: wanted.get(item, middle) for item in columns.items[number]}


def _mean_height(item: Item, joined: list[tuple[Item, float]]) -> float:
    """The weighted mean of the heights of what an item is joined to."""
    weights = [_weight(item, other) for other, _ in joined]
    total = sum(weight * y for weight, (_, y) in zip(weights, joined, strict=True))
    return total / sum(weights)


def _weight(item: Item, other: Item) -> int:
    if item[0] == other[0] == "lane" or {item, other} == {CONCAT, OUTPUT}:
        return _STRAIGHT
    return 1


def _spread(column: list[Item], wanted: Mapping[Item, float]) -> dict[Item, float]:
    """The heights nearest to the wanted ones, by least squares, that keep a column's order and the
    gaps in it.

    With the gaps subtracted this is isotonic regression: neighbours in the wrong order are pooled
    and share their mean.
    """
    if not column:
        return {}
    offsets = [0.0]
    for above, below in itertools.pairwise(column):
        offsets.append(offsets[-1] + (item_height(above) + item_height(below)) / 2 + _GAP)

    pools: list[list[float]] = []
    for item, offset in zip(column, offsets, strict=True):
        pools.append([wanted[item] - offset])
        while len(pools) > 1 and _mean(pools[-2]) > _mean(pools[-1]):
            last = pools.pop()
            pools[-1] += last

    shifts = [_mean(pool) for pool in pools for _ in pool]
    found = zip(column, shifts, offsets, strict=True)
    return {item: shift + offset for item, shift, offset in found}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
