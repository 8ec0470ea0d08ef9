"""The height of everything in a cell's picture.

Lines are as straight as they can be, and nothing lies on top of another.
"""

import itertools
from collections.abc import Mapping

from bnas_jax.report.columns import CONCAT, OUTPUT, Columns, Item

BOX_HEIGHT = 20.0
_LANE_HEIGHT = 4.0
_GAP = 7.0  # between two items of a column
# How often all columns are gone through, forwards and backwards in turn.
_SWEEPS = 61
# An item is drawn to the mean height of its neighbours. This is the weight of a
# neighbour to which a line goes straight on; any other neighbour has 1.
_STRAIGHT = 8


def heights(columns: Columns) -> list[dict[Item, float]]:
    """y of the middle of each item, column by column. y grows downwards."""
    # At first all items are at one height, as far as the gaps let them.
    ys = []
    for column in columns.items:
        wanted = dict.fromkeys(column, 0.0)
        ys.append(_spread(column, wanted))

    # Then each is as near as it can be to what it is joined to: columns from left to
    # right, then from right to left, and so on.
    for sweep in range(_SWEEPS):
        numbers = list(range(len(ys)))
        if sweep % 2:
            numbers.reverse()
        for number in numbers:
            wanted = _wanted(columns, ys, number)
            ys[number] = _spread(columns.items[number], wanted)
    return ys


def item_height(item: Item) -> float:
    """The height of a box, or of a lane."""
    if item[0] == "lane":
        return _LANE_HEIGHT
    return BOX_HEIGHT


def _wanted(
    columns: Columns, ys: list[dict[Item, float]], number: int
) -> dict[Item, float]:
    """For each item of column `number` the mean height of what it is joined to."""
    wanted = {}
    for item in columns.items[number]:
        # (item, its height) in the columns on both sides.
        joined = []
        for other in columns.before(number, item):
            joined.append((other, ys[number - 1][other]))
        for other in columns.behind(number, item):
            joined.append((other, ys[number + 1][other]))
        if joined:
            wanted[item] = _mean_height(item, joined)
    if not wanted:
        return ys[number]

    # An input that nothing uses stays near the other one.
    middle = _mean(list(wanted.values()))
    return {item: wanted.get(item, middle) for item in columns.items[number]}


def _mean_height(item: Item, joined: list[tuple[Item, float]]) -> float:
    """The weighted mean of the heights of what an item is joined to.

    joined: (item, its height) each.
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
    """The weight of one item in the mean height of another that it is joined to."""
    # Two lanes of one state, and the last line, are the ones that go straight on.
    lanes = item[0] == other[0] == "lane"
    to_output = {item, other} == {CONCAT, OUTPUT}
    if lanes or to_output:
        return _STRAIGHT
    return 1


def _spread(column: list[Item], wanted: Mapping[Item, float]) -> dict[Item, float]:
    """The heights nearest to the wanted ones that keep a column's order and its gaps.

    Nearest is by least squares. With the gaps subtracted this is isotonic regression:
    the nearest shifts that do not fall from one item to the next.
    """
    if not column:
        return {}
    from scipy.optimize import isotonic_regression

    # The heights of the items if they lay as close as they may.
    offsets = [0.0]
    for above, below in itertools.pairwise(column):
        distance = (item_height(above) + item_height(below)) / 2 + _GAP
        offsets.append(offsets[-1] + distance)

    # The shifts from there, which may not fall.
    differences = [wanted[item] - y for item, y in zip(column, offsets, strict=True)]
    shifts = isotonic_regression(differences)
    ys = shifts.x + offsets  # (items,)
    return {item: float(y) for item, y in zip(column, ys, strict=True)}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
