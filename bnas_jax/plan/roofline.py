"""The least time that a program can take on a chip: the roofline model.

The program computes, moves bytes in memory and sends bytes to other chips, each at the
chip's highest rate. The time is a bound and not a prediction: it has no latencies, all
three overlap perfectly, and every operation runs at the peak rate of the matrix units.
(Williams, Waterman, Patterson, 2009.)
"""

from typing import NamedTuple

from bnas_jax.plan.chips import Chip

COMPUTING, MOVING, SENDING = "operations", "memory bandwidth", "links between chips"


class Work(NamedTuple):
    """The work of one chip that runs a program."""

    # Operations: a multiplication and an addition are two.
    operations: float
    # Bytes read from and written to its main memory.
    moved: float
    # Bytes sent to other chips.
    sent: float


class Bound(NamedTuple):
    """The least time of a program."""

    # The least seconds for each kind of work: COMPUTING, MOVING, SENDING.
    times: dict[str, float]

    @property
    def by(self) -> str:
        """The kind of work that takes longest."""
        return max(self.times, key=lambda name: self.times[name])

    @property
    def seconds(self) -> float:
        """The least time of the program: the longest of the times."""
        return self.times[self.by]

    def without(self, name: str) -> "Bound":
        """The bound without this kind of work."""
        times = {other: time for other, time in self.times.items() if other != name}
        return Bound(times)


def bound(work: Work, chip: Chip, *, precision: str) -> Bound:
    """The least time for the work on a chip.

    precision: the precision of the products, see `Chip.peak`.
    """
    times = {
        COMPUTING: work.operations / chip.peak(precision),
        MOVING: work.moved / chip.bandwidth,
        SENDING: work.sent / chip.link,
    }
    return Bound(times)
