"""The least time that a program can take on a chip: what it computes, moves and sends,
each at the chip's highest rate.

A bound, no prediction: nothing is waited for, all three overlap perfectly, and every
instruction runs at the peak of the matrix units. (The roofline model: Williams,
Waterman, Patterson, 2009.)
"""

from typing import NamedTuple

from bnas_jax.plan.chips import Chip

COMPUTING, MOVING, SENDING = "operations", "memory bandwidth", "links between chips"


class Work(NamedTuple):
    """What one chip does. operations: two for a product and its sum. moved: bytes of
    its main memory. sent: bytes to others.
    """

    operations: float
    moved: float
    sent: float


class Bound(NamedTuple):
    """times: seconds that computing, moving and sending take at least, each by itself."""

    times: dict[str, float]

    @property
    def by(self) -> str:
        """What takes longest."""
        return max(self.times, key=lambda name: self.times[name])

    @property
    def seconds(self) -> float:
        """The least time: that of what takes longest."""
        return self.times[self.by]

    def without(self, name: str) -> "Bound":
        """The bound by the others alone."""
        return Bound(
            {other: time for other, time in self.times.items() if other != name}
        )


def bound(work: Work, chip: Chip, *, precision: str) -> Bound:
    """The least time for the work. precision: of its products, see `Chip.peak`."""
    return Bound(
        {
            COMPUTING: work.operations / chip.peak(precision),
            MOVING: work.moved / chip.bandwidth,
            SENDING: work.sent / chip.link,
        }
    )
