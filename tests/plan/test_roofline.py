"""The least time is that of the slowest of the three: computing, moving, sending."""

import pytest

from bnas_jax.plan.chips import CHIPS
from bnas_jax.plan.roofline import COMPUTING, MOVING, SENDING, Work, bound


@pytest.mark.parametrize(
    ("work", "seconds", "by"),
    [
        (Work(operations=275e12, moved=0.6e12, sent=0.0), 1.0, COMPUTING),
        (Work(operations=27.5e12, moved=0.6e12, sent=0.0), 0.5, MOVING),
        (Work(operations=27.5e12, moved=0.6e12, sent=600e9), 2.0, SENDING),
        (Work(operations=0.0, moved=0.0, sent=0.0), 0.0, COMPUTING),
    ],
)
def test_bound_of_a_v4(work, seconds, by):
    """275 T operations, 1,200 GB of memory and 300 GB over links a second."""
    found = bound(work, CHIPS["v4"], precision="float32")

    assert found.seconds == pytest.approx(seconds)
    assert found.by == by


def test_each_of_the_three_has_its_time():
    found = bound(
        Work(operations=275e12, moved=0.6e12, sent=600e9),
        CHIPS["v4"],
        precision="float32",
    )

    assert found.times == pytest.approx({COMPUTING: 1.0, MOVING: 0.5, SENDING: 2.0})
