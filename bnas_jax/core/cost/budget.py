"""`fit_budget`: the largest network within a budget of FLOPs (Table 5)."""

import math
from collections.abc import Iterable
from fractions import Fraction
from typing import TypeVar

import flax.linen as nn

from bnas_jax.core.cost.walk import cost
from bnas_jax.core.errors import UserError

# The type of the network, which the result has, too.
Net = TypeVar("Net", bound=nn.Module)


def fit_budget(
    network: Net,
    flops: float,
    *,
    image_shape: tuple[int, int, int],
    min_channels: int = 1,
    max_channels: int | None = None,
    cells: Iterable[int] = (),
) -> Net:
    """The network whose FLOPs come nearest to a budget without exceeding it.

    It differs from `network` only in its size.

    flops: the budget.
    image_shape: (H, W, C).
    min_channels, max_channels: inclusive bounds on the width, which is a multiple of
        `Network.channel_step`; None is no upper bound.
    cells: numbers of cells to choose from, such as range(5, 21); by default only that
        of `network`. Of equally good numbers the first is taken.

    Raises `UserError` if the smallest network is above the budget.

    >>> genotype = bnas.load_genotype("latest_cell")
    >>> network = bnas.Network(genotype, num_cells=2, channels=8, num_classes=10)
    >>> bnas.fit_budget(network, 1e5, image_shape=(8, 8, 1)).channels
    21
    """
    # The smallest width that the network allows and the caller wants.
    step = getattr(network, "channel_step", 1)
    least = math.ceil(max(min_channels, 1) / step) * step
    _check(flops, least=least, max_channels=max_channels)

    # For each number of cells the widest network within the budget; of these networks
    # the one with the most FLOPs.
    best: tuple[Fraction, Net] | None = None
    needed: float = math.inf  # FLOPs of the smallest network so far
    walked: dict = {}  # cells that are counted already, see `cost`
    for num_cells in tuple(cells) or (network.num_cells,):
        quadratic = _Quadratic(
            network.clone(num_cells=num_cells),
            least=least,
            step=step,
            image_shape=image_shape,
            walked=walked,
        )
        smallest = quadratic(least)
        needed = min(needed, float(smallest))
        if smallest > flops:
            continue

        channels = quadratic.widest(flops, limit=max_channels)
        found = quadratic(channels)
        if best is None or found > best[0]:
            widest = network.clone(num_cells=num_cells, channels=channels)
            best = found, widest

    if best is None:
        raise UserError(
            f"budget of {flops:g} FLOPs is too small; write at least "
            f"{math.ceil(needed)}, or fewer cells or smaller images"
        )
    return best[1]


def _check(flops: float, *, least: int, max_channels: int | None) -> None:
    """Raises `UserError` for a budget or a largest width that no network can have."""
    if not 0 < flops < math.inf:
        raise UserError(
            f"budget must be a positive number of FLOPs such as 1.5e7, got {flops}"
        )
    if max_channels is not None and max_channels < least:
        raise UserError(
            f"max_channels must be at least {least}, the smallest width asked for, got "
            f"{max_channels}"
        )


class _Quadratic:
    """The FLOPs of a network as a function of its channels.

    It is a quadratic: the MACs of each convolution are proportional to the product of
    two widths, if all widths are multiples of `step`. It is interpolated from the three
    smallest widths, in fractions, and so is exact for all widths.
    """

    def __init__(
        self, network: nn.Module, *, least: int, step: int, image_shape, walked: dict
    ):
        self.network, self._least, self._step = network, least, step
        # The FLOPs of the three smallest widths.
        values = []
        for index in range(3):
            sized = network.clone(channels=least + index * step)
            total = cost(sized, image_shape=image_shape, walked=walked).total
            values.append(Fraction(total.flops))
        # Newton's forward differences.
        first, second, third = values
        self._start = first
        self._slope = second - first
        self._bend = third - 2 * second + first

    def __call__(self, channels: int) -> Fraction:
        # start + s * slope + s (s - 1) / 2 * bend, at s steps above the least width.
        steps = (channels - self._least) // self._step
        pairs = Fraction(steps * (steps - 1), 2)
        return self._start + steps * self._slope + pairs * self._bend

    def widest(self, flops: float, *, limit: int | None) -> int:
        """The most channels within the budget and the limit."""
        # Double the steps until the budget is exceeded, then bisect.
        low, high = 0, 1
        while self._after(high) <= flops:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            if self._after(middle) <= flops:
                low = middle
            else:
                high = middle

        # `limit` need not be a multiple of the step.
        widest = self._least + low * self._step
        if limit is None:
            return widest
        return min(widest, limit // self._step * self._step)

    def _after(self, steps: int) -> Fraction:
        """The FLOPs of the network that is `steps` steps wider than the smallest."""
        return self(self._least + steps * self._step)
