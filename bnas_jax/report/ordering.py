"""The order of each column from top to bottom, in which few lines cross.

Each item is put at the mean place of what it is joined to in the next column, from both
sides in turn (the barycenter method of Sugiyama, Tagawa and Toda, IEEE Transactions on
Systems, Man, and Cybernetics 11(2), 1981).
"""

import itertools

from bnas_jax.report.columns import Columns, Item

SWEEPS = 12


def with_few_crossings(columns: Columns) -> Columns:
    """The same columns in the best order of all sweeps.

    The inputs stay where they are: c_(k-1) is the lower one, as the inter-cell skip,
    which runs beneath everything, begins there.
    """
    # At first, items are in the order of their numbers.
    inputs, *others = columns.items
    items = [inputs]
    for column in others:
        items.append(sorted(column, key=lambda item: (item[1], item[0])))
    current = columns._replace(items=items)

    # Sweeps go to the right and to the left in turn. One may make it worse, too.
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
    # Only lines between the same two columns can cross.
    count = 0
    for one, other in itertools.combinations(columns.links, 2):
        if one.column != other.column:
            continue
        # Two lines cross where the one that begins above the other ends below it.
        starts = places[one.column]
        ends = places[one.column + 1]
        at_start = starts[one.start] - starts[other.start]
        at_end = ends[one.end] - ends[other.end]
        if at_start * at_end < 0:
            count += 1
    return count


def _ordered_by_previous(columns: Columns) -> Columns:
    """All columns but the first, each by the one before it."""
    # A column is ordered by the one before it, which is in order by then.
    items = list(columns.items)
    for number in range(1, len(items)):
        joined = {item: columns.before(number, item) for item in items[number]}
        items[number] = _by_mean_place(joined, neighbours=items[number - 1])
    return columns._replace(items=items)


def _ordered_by_next(columns: Columns) -> Columns:
    """All columns but the first and the last, each by the one behind it."""
    # From right to left; the column behind is in order by then.
    items = list(columns.items)
    for number in range(len(items) - 2, 0, -1):
        joined = {item: columns.behind(number, item) for item in items[number]}
        items[number] = _by_mean_place(joined, neighbours=items[number + 1])
    return columns._replace(items=items)


def _by_mean_place(
    joined: dict[Item, list[Item]], *, neighbours: list[Item]
) -> list[Item]:
    """The items in the order of the mean place of what they are joined to.

    joined: item -> the neighbours that it is joined to. An item that is joined to
    nothing keeps its place.
    """
    # Without neighbours, an item's mean place is its own place.
    means = _places(list(joined))
    places = _places(neighbours)
    for item, others in joined.items():
        if others:
            total = sum(places[other] for other in others)
            means[item] = total / len(others)
    return sorted(joined, key=lambda item: means[item])


def _places(column: list[Item]) -> dict[Item, float]:
    """The place of each item from 0 to 1, so that columns of any length compare."""
    places = {}
    for index, item in enumerate(column):
        places[item] = (index + 0.5) / len(column)
    return places
