"""Tables in Markdown."""

from collections.abc import Iterable


def table_row(cells: Iterable[str]) -> str:
    r"""A row of a table.

    A `|` within a cell would end it, and is escaped.

    >>> print(table_row(["3|5 bits", "98.10"]))
    | 3\|5 bits | 98.10 |
    """
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
