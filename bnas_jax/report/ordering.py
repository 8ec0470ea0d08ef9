"""The order of each column from top to bottom, in which few lines cross.

Each item is put at the mean place of what it is joined to in the next column, from both sides in
turn (the barycenter method of Sugiyama, Tagawa and Toda, IEEE Transactions on Systems, Man, and
Cybernetics 11(2), 1981).
"""

import itertools

from bnas_jax.report.columns import Columns, Item

SWEEPS = 12


def with_few_crossings(columns: Columns) -> Columns:
    """The same columns in the best order of all sweeps. The inputs stay where they are: c_(k-1),
    where the inter-cell skip begins that runs beneath everything, is the lower one.
    """
    first, *others = columns.items
    by_number = lambda item: (item[1], item[0])
    current = columns._replace(items=[first, *(sorted(column, key=by_number) for column in others)])
    best = current
    for sweep in range(SWEEPS):
        if sweep % 2:
            current = _ordered_by_next(current)
        else:
            current = _ordered_by_previous(current)
        if crossings(current) < crossings(best):
            best = current
    return best


def crossings(columns: Columns) -> int:
    """How many pairs of lines cross between two columns."""
    places = [_places(column) for column in columns.items]
    count = 0
    for one, other in itertools.combinations(columns.links, 2):
        if one.column == other.column:
            starts, ends = places[one.column], places[one.column + 1]
            above = starts[one.start] - starts[other.start]
            count += above * (ends[one.end] - ends[other.end]) < 0
    return count


def _ordered_by_previous(columns: Columns) -> Columns:
    items = list(columns.items)
    for number in range(1, len(items)):
        joined = {item: columns.before(number, item) for item in items[number]}
        items[number] = _by_mean_place(joined, items[number - 1])
    return columns._replace(items=items)


def _ordered_by_next(columns: Columns) -> Columns:
    items = list(columns.items)
    for number in range(len(items) - 2, 0, -1):
        joined = {item: columns.behind(number, item) for item in items[number]}
        items[number] = _by_mean_place(joined, items[number + 1])
    return columns._replace(items=items)


def _by_mean_place(joined: dict[Item, list[Item]], neighbours: list[Item]) -> list[Item]:
    """The items in the order of the mean place of what they are joined to; one that is joined to
    nothing keeps its place.
    """
    own, places = _places(list(joined)), _places(neighbours)
    means = {}
    for item, others in joined.items():
        means[item] = own[item]
        if others:
            means[item] = sum(places[other] for other in others) / len(others)
    return sorted(joined, key=lambda item: means[item])


def _places(column: list[Item]) -> dict[Item, float]:
    """Places from 0 to 1, so that columns of different length compare."""
    return {item: (index + 0.5) / len(column) for index, item in enumerate(column)}
