"""The vertical position (y) of each item in a cell's picture.

Lines are as straight as possible, and items do not overlap. Lengths are in points.
"""

import itertools
from collections.abc import Mapping

from bnas_jax.report.columns import CONCAT, OUTPUT, Columns, Item

BOX_HEIGHT = 20.0
_LANE_HEIGHT = 4.0
_GAP = 7.0  # between two items of a column
# The number of sweeps over all columns, alternately forwards and backwards.
_SWEEPS = 61
# An item moves to the mean y of its neighbours. This is the weight of a neighbour if
# the line to it should be straight; any other neighbour has the weight 1.
_STRAIGHT = 8


def heights(columns: Columns) -> list[dict[Item, float]]:
    """y of the middle of each item, column by column. y grows downwards."""
    # At first all items are as close to y = 0 as the gaps allow.
    ys = []
    for column in columns.items:
        wanted = dict.fromkeys(column, 0.0)
        ys.append(_spread(column, wanted))

    # Then each item moves as close as possible to its neighbours: first in the columns
    # from left to right, then from right to left, and so on.
    for sweep in range(_SWEEPS):
        numbers = list(range(len(ys)))
        if sweep % 2:
            numbers.reverse()
        for number in numbers:
            wanted = _wanted(columns, ys, number)
            ys[number] = _spread(columns.items[number], wanted)
    return ys


def item_height(item: Item) -> float:
    """The size of a box, or of a lane, in the direction of y."""
    if item[0] == "lane":
        return _LANE_HEIGHT
    return BOX_HEIGHT


def _wanted(
    columns: Columns, ys: list[dict[Item, float]], number: int
) -> dict[Item, float]:
    """For each item of column `number`, the mean y of its neighbours."""
    wanted = {}
    for item in columns.items[number]:
        # Pairs (neighbour, its y) from the columns on both sides.
        joined = []
        for other in columns.before(number, item):
            joined.append((other, ys[number - 1][other]))
        for other in columns.behind(number, item):
            joined.append((other, ys[number + 1][other]))
        if joined:
            wanted[item] = _mean_height(item, joined)
    if not wanted:
        return ys[number]

    # An unused input has no neighbours, and stays close to the other one.
    middle = _mean(list(wanted.values()))
    return {item: wanted.get(item, middle) for item in columns.items[number]}


def _mean_height(item: Item, joined: list[tuple[Item, float]]) -> float:
    """The weighted mean of the y of an item's neighbours.

    joined: pairs (neighbour, its y).
    """
    # sum(weight * y) / sum(weight)
    weights = 0
    total = 0.0
    for other, y in joined:
        weight = _weight(item, other)
        weights += weight
        total += weight * y
    return total / weights


def _weight(item: Item, other: Item) -> int:
    """The weight of a neighbour in the mean y of an item."""
    # Lines between two lanes, and the line to the output, should be straight.
    lanes = item[0] == other[0] == "lane"
    to_output = {item, other} == {CONCAT, OUTPUT}
    if lanes or to_output:
        return _STRAIGHT
    return 1


def _spread(column: list[Item], wanted: Mapping[Item, float]) -> dict[Item, float]:
    """The y closest to the wanted ones that keep the order and the gaps of a column.

    They minimize the sum of squared differences. After subtracting the gaps, this is
    isotonic regression: the closest sequence of shifts that does not decrease.
    """
    if not column:
        return {}
    from scipy.optimize import isotonic_regression

    # y of the items if they were as close together as allowed.
    offsets = [0.0]
    for above, below in itertools.pairwise(column):
        distance = (item_height(above) + item_height(below)) / 2 + _GAP
        offsets.append(offsets[-1] + distance)

    # The shifts from there must not decrease from one item to the next.
    differences = [wanted[item] - y for item, y in zip(column, offsets, strict=True)]
    shifts = isotonic_regression(differences)
    ys = shifts.x + offsets  # (items,)
    return {item: float(y) for item, y in zip(column, ys, strict=True)}


def _mean(values: list[float]) -> float:
    """The mean of at least one value."""
    return sum(values) / len(values)
