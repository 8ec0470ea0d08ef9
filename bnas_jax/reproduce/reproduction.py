"""What a table or figure of the paper is made of."""

import dataclasses
from collections.abc import Callable, Mapping

from bnas_jax.core.errors import UserError
from bnas_jax.reproduce.columns import COLUMNS
from bnas_jax.study import Row

# What each scale means, for a reader of the table.
SCALES = {
    "smoke": (
        "Ours at the scale `smoke`: tiny networks, five epochs on 8x8 digits. It shows "
        "that all runs, and says nothing about the paper's numbers."
    ),
    "paper": (
        "Ours at the paper's scale. What the paper leaves open is our choice, named in "
        "configs/reproduce.py."
    ),
}


@dataclasses.dataclass(frozen=True)
class Reproduction:
    """A table or figure of the paper, at a scale.

    title: what stands above the table.
    rows: the trainings, in the paper's order; none where nothing is trained.
    columns: names of `columns.COLUMNS`.
    paper: row -> column -> the number that the paper prints; a number that it does not
        print is left out.
    pictures: name of a file -> a function of `pictures`, which takes this reproduction
        and its folder.
    remark: what a reader of the table must know.

    Raises `UserError` for a column that is not there, and for a number of the paper in
    no row or column of the table.
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
        # Columns that there are.
        for name in self.columns:
            if name not in COLUMNS:
                raise UserError(
                    f"no column {name!r}; write one of {', '.join(COLUMNS)}"
                )
        # The paper's numbers: each in a row and a column of the table.
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
