"""Orders the items of each column so that few lines cross.

Items are sorted by the mean place of their neighbours in the previous column, then in
the next column, and so on: the barycenter method (Sugiyama, Tagawa and Toda, IEEE
Transactions on Systems, Man, and Cybernetics 11(2), 1981).
"""

import itertools

from bnas_jax.report.columns import Columns, Item

SWEEPS = 12


def with_few_crossings(columns: Columns) -> Columns:
    """The same columns in the best order of all sweeps.

    The inputs keep their order: c_(k-1) is below, because the inter-cell skip, which is
    below everything, begins there.
    """
    # At first, items have the order of their numbers.
    inputs, *others = columns.items
    items = [inputs]
    for column in others:
        items.append(sorted(column, key=lambda item: (item[1], item[0])))
    current = columns._replace(items=items)

    # Sweep to the right and to the left in turn. A sweep can also add crossings.
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
    """The number of pairs of links that cross."""
    places = [_places(column) for column in columns.items]
    # Only lines between the same two columns can cross.
    count = 0
    for one, other in itertools.combinations(columns.links, 2):
        if one.column != other.column:
            continue
        # Two lines cross if one begins above the other and ends below it.
        starts = places[one.column]
        ends = places[one.column + 1]
        at_start = starts[one.start] - starts[other.start]
        at_end = ends[one.end] - ends[other.end]
        if at_start * at_end < 0:
            count += 1
    return count


def _ordered_by_previous(columns: Columns) -> Columns:
    """The columns, in which all but the first are sorted by the previous one."""
    # From left to right, so that the previous column is already sorted.
    items = list(columns.items)
    for number in range(1, len(items)):
        joined = {item: columns.before(number, item) for item in items[number]}
        items[number] = _by_mean_place(joined, neighbours=items[number - 1])
    return columns._replace(items=items)


def _ordered_by_next(columns: Columns) -> Columns:
    """The columns, in which all but the first and the last are sorted by the next."""
    # From right to left, so that the next column is already sorted.
    items = list(columns.items)
    for number in range(len(items) - 2, 0, -1):
        joined = {item: columns.behind(number, item) for item in items[number]}
        items[number] = _by_mean_place(joined, neighbours=items[number + 1])
    return columns._replace(items=items)


def _by_mean_place(
    joined: dict[Item, list[Item]], *, neighbours: list[Item]
) -> list[Item]:
    """The items, sorted by the mean place of their neighbours.

    An item without neighbours keeps its place.

    joined: item -> the neighbours that it is linked to.
    neighbours: the column of the neighbours.
    """
    # Begin with the own place of each item, for those without neighbours.
    means = _places(list(joined))
    places = _places(neighbours)
    for item, others in joined.items():
        if others:
            total = sum(places[other] for other in others)
            means[item] = total / len(others)
    return sorted(joined, key=lambda item: means[item])


def _places(column: list[Item]) -> dict[Item, float]:
    """The relative place of each item in its column, between 0 and 1."""
    places = {}
    for index, item in enumerate(column):
        places[item] = (index + 0.5) / len(column)
    return places
