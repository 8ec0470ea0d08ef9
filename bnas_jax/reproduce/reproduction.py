"""`Reproduction`: the rows, columns, numbers and pictures of a table or figure."""

import dataclasses
from collections.abc import Callable, Mapping

from bnas_jax.core.errors import UserError
from bnas_jax.reproduce.columns import COLUMNS
from bnas_jax.study import Row

# Scale -> the note about it above a table.
SCALES = {
    "smoke": (
        "Ours at the scale `smoke`: tiny networks, five epochs on 8x8 digits. It only "
        "shows that the table runs, and says nothing about the paper's numbers."
    ),
    "paper": (
        "Ours at the paper's scale. Where the paper says nothing, configs/reproduce.py "
        "names our choices."
    ),
}


@dataclasses.dataclass(frozen=True)
class Reproduction:
    """A table or figure of the paper, at a scale.

    title: the heading of the table.
    rows: the trainings in the paper's order; () if nothing is trained.
    columns: names of `columns.COLUMNS`.
    paper: row -> column -> the number that the paper prints; numbers that it does not
        print are left out.
    pictures: part of a file's name -> a function of `pictures`, which takes this
        reproduction and its folder.
    remark: a paragraph for the reader of the table.

    Raises `UserError` for an unknown column, and for a number of the paper that belongs
    to no row or column of the table.
    """

    title: str
    rows: tuple[Row, ...] = ()
    columns: tuple[str, ...] = ()
    paper: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    pictures: Mapping[str, Callable[..., str | None]] = dataclasses.field(
        default_factory=dict
    )
    remark: str = ""

    def __post_init__(self):
        # Check the columns.
        for name in self.columns:
            if name not in COLUMNS:
                raise UserError(
                    f"no column {name!r}; write one of {', '.join(COLUMNS)}"
                )
        # Each number of the paper must belong to a row and a column.
        names = [row.name for row in self.rows]
        for name, printed in self.paper.items():
            if name not in names:
                raise UserError(
                    f"the paper's numbers of {name!r} belong to no row; rows are "
                    f"{', '.join(names)}"
                )
            for column in printed:
                if column not in self.columns:
                    raise UserError(
                        f"{name!r} has a number of the paper for {column!r}, which is "
                        "no column of the table"
                    )

    @property
    def measures(self) -> bool:
        """Whether a column needs runs; False where all columns are counted."""
        return any(COLUMNS[name].measured for name in self.columns)
