"""The plan of a network: its cells in order, how wide they are and which of them reduce
the image.
"""

import dataclasses

from bnas_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Place:
    """A cell's place in the stack.

    index: from 0. channels: of each node. reduction: whether it has half the size, and
    twice the channels, of the cell in front of it. halved: whether its first input has
    twice the size of its second, as it does behind a reduction cell.
    """

    index: int
    channels: int
    reduction: bool
    halved: bool

    @property
    def name(self) -> str:
        """The name of the cell's module."""
        return f"cell{self.index}"

    @property
    def kind(self) -> str:
        """Which of the cells of a genotype, and of the alphas, is here: `normal` or
        `reduce`.
        """
        return "reduce" if self.reduction else "normal"

    @property
    def follows_a_cell(self) -> bool:
        """Whether a cell is in front of it, to which an inter-cell skip leads; the
        first has the stem.
        """
        return self.index > 0

    def stride(self, source: int) -> int:
        """The stride of an edge that leaves the state `source`: 2 from the two inputs
        of a reduction cell, else 1.
        """
        return 2 if self.reduction and source < 2 else 1


def reductions(num_cells: int) -> tuple[int, ...]:
    """The indices of the cells that halve the image and double the width: at one and
    two thirds of the depth (DARTS section 2.1).
    """
    # A set, as both are the first one of a single cell.
    return tuple(sorted({num_cells // 3, 2 * num_cells // 3}))


def stack(num_cells: int, channels: int, *, halved: bool = False) -> tuple[Place, ...]:
    """The places of all cells, from the first on.

    channels: of the first one's nodes. halved: whether the stem gives it two sizes
    (ImageNet's does).
    """
    places = []
    for index in range(num_cells):
        reduction = index in reductions(num_cells)
        if reduction:
            channels = 2 * channels
        places.append(
            Place(index=index, channels=channels, reduction=reduction, halved=halved)
        )
        # Behind a reduction cell the output of the cell in front of it has twice the
        # size.
        halved = reduction
    return tuple(places)


def check_image_size(shape: tuple[int, ...], num_cells: int) -> None:
    """`UserError` unless an input of the first cell, (N, H, W, C), can be halved at
    every reduction.
    """
    times = len(reductions(num_cells))
    steps = 2**times
    for size in shape[1:3]:
        if size % steps:
            # The next smaller one that fits.
            near = max(steps, size // steps * steps)
            raise UserError(
                f"images of {size} pixels at the first cell cannot be halved by "
                f"{times} reduction cells; "
                f"use a multiple of {steps}, for instance {near}; in the form "
                "imagenet, whose stem divides "
                "the side by 8, images of 8 times that"
            )
