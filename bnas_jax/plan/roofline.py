"""The least time that a program can take on a chip: the roofline model.

The program computes, moves and sends, each at the chip's highest rate. It is a bound,
no prediction: nothing is waited for, all three overlap perfectly, and every instruction
runs at the peak of the matrix units. (Williams, Waterman, Patterson, 2009.)
"""

from typing import NamedTuple

from bnas_jax.plan.chips import Chip

COMPUTING, MOVING, SENDING = "operations", "memory bandwidth", "links between chips"


class Work(NamedTuple):
    """What one chip does when it runs a program."""

    # Two for a product and its sum.
    operations: float
    # Bytes to and from its main memory.
    moved: float
    # Bytes to other chips.
    sent: float


class Bound(NamedTuple):
    """The least time of a program."""

    # The seconds that computing, moving and sending take at least, each by itself.
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
        """The bound by the other times alone."""
        times = {other: time for other, time in self.times.items() if other != name}
        return Bound(times)


def bound(work: Work, chip: Chip, *, precision: str) -> Bound:
    """The least time for the work on a chip.

    precision: that of the products, see `Chip.peak`.
    """
    times = {
        COMPUTING: work.operations / chip.peak(precision),
        MOVING: work.moved / chip.bandwidth,
        SENDING: work.sent / chip.link,
    }
    return Bound(times)
