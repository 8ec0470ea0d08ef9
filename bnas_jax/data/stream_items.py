"""The examples of a stream by their numbers: which one is read at a position, and which
part of it is seen.

An item is a function of its number alone, so that any worker can make any item. Items
are pickled for worker processes.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from bnas_jax.data import order
from bnas_jax.data.readers.encoded import ChooseBox, Encoded
from bnas_jax.data.readers.images import Box

# A worker keeps the random orders that are at most so far from the one in use: those of
# fresh batches, one for each step, for more steps than are read ahead; those of epochs
# for the epoch before and the one after.
_FRESH_KEPT = 256
_EPOCHS_KEPT = 1
# The ratio of width to height of random crops, as in torchvision.
_RATIOS = (3 / 4, 4 / 3)
_TRIES = 10

# One example as Grain carries it: image uint8 (H, W, C), label, weight, and `bad`, its
# number where it did not decode, else -1.
Item = dict[str, Any]


def random_box(
    seed: int, epoch: int, row: int, height: int, width: int, min_area: float
) -> Box:
    """The part of image `row` that epoch `epoch` sees, as torchvision's
    RandomResizedCrop draws it.

    An area from `min_area` to all and a ratio from 3:4 to 4:3; after ten that do not
    fit, the largest such part in the middle.
    """
    # Raw words of PCG64, as NumPy promises their stream; four numbers in [0, 1) for
    # each try.
    generator = np.random.PCG64([seed, order.CROPS, epoch, row])
    words = generator.random_raw(4 * _TRIES).reshape(_TRIES, 4)
    uniform = (words >> np.uint64(11)) * 2.0**-53  # [tries, 4]
    lowest, highest = _RATIOS

    for area, ratio, top, left in uniform:
        pixels = height * width * (min_area + (1 - min_area) * area)
        # Uniform in the logarithm, so that 3:4 is as likely as 4:3.
        ratio = lowest * (highest / lowest) ** ratio
        box_width = round((pixels * ratio) ** 0.5)
        box_height = round((pixels / ratio) ** 0.5)
        if 0 < box_width <= width and 0 < box_height <= height:
            return Box(
                top=int(top * (height - box_height + 1)),
                left=int(left * (width - box_width + 1)),
                height=box_height,
                width=box_width,
            )

    # A very wide or very high image.
    box_width = min(width, round(height * highest))
    box_height = min(height, round(width / lowest))
    return Box(
        top=(height - box_height) // 2,
        left=(width - box_width) // 2,
        height=box_height,
        width=box_width,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class TrainItem:
    """`item(number)`: the example at a position of the endless sequence that a host
    reads for a training.

    first: the row of the global batch at which the host's part begins; local: the
    number of its rows. fresh: each batch is drawn from all examples. Each worker
    process has a copy, which keeps the random orders that it has drawn.
    """

    examples: Encoded
    seed: int
    batch_size: int
    min_area: float
    first: int
    local: int
    fresh: bool
    _orders: dict[int, np.ndarray] = dataclasses.field(
        default_factory=dict, init=False, repr=False
    )

    def __call__(self, number: int) -> Item:
        # From the host's sequence to the step, its epoch, and the row of the global
        # batch.
        step, within = divmod(number, self.local)
        steps_per_epoch = len(self.examples) // self.batch_size
        epoch, index = divmod(step, steps_per_epoch)
        row = self.first + within
        if self.fresh:
            example = self._order(order.FRESH, step)[row]
        else:
            position = index * self.batch_size + row
            example = self._order(order.EPOCHS, epoch)[position]
        example = int(example)

        # Where bad images are skipped, the next one that decodes takes the place of one
        # that does not.
        tries = 1
        if self.examples.options.skip_bad:
            tries = len(self.examples)
        for tried in range(tries):
            taken = (example + tried) % len(self.examples)
            item = _item(
                self.examples, number=taken, choose=lambda n: self._choose(epoch, n)
            )
            if item["bad"] < 0:
                break

        # The number of the one that failed, even where another took its place: it is
        # reported.
        bad = -1
        if tried or item["bad"] >= 0:
            bad = example
        return item | {"bad": np.int64(bad)}

    def _choose(self, epoch: int, example: int) -> ChooseBox | None:
        return _crop(self.examples, self.seed, epoch, example, min_area=self.min_area)

    def _order(self, use: int, number: int) -> np.ndarray:
        """The random order of an epoch, or the examples of a fresh batch, int32; drawn
        once.
        """
        drawn = self._orders.get(number)
        if drawn is not None:
            return drawn
        drawn = order.shuffled(
            len(self.examples),
            seed=self.seed,
            use=use,
            number=number,
        )
        kept = _EPOCHS_KEPT
        if self.fresh:
            # A copy: a slice would keep the whole order in memory.
            drawn = drawn[: self.batch_size].copy()
            kept = _FRESH_KEPT

        # `pop` and a list, as other threads may change the dict at the same time.
        for old in list(self._orders):
            if abs(old - number) > kept:
                self._orders.pop(old, None)
        self._orders[number] = drawn
        return drawn


@dataclasses.dataclass(frozen=True, eq=False)
class EvalItem:
    """`item(number)`: the example at a position of the sequence that a host reads for
    evaluations, one after the other.

    batches: of an evaluation. first, local: as in `TrainItem`. seed: of the
    augmentation, None where there is none.
    """

    examples: Encoded
    batch_size: int
    batches: int
    first: int
    local: int
    seed: int | None
    min_area: float

    def __call__(self, number: int) -> Item:
        batch, within = divmod(number, self.local)
        epoch, index = divmod(batch, self.batches)
        row = index * self.batch_size + self.first + within

        # Padding repeats the last example, with weight 0.
        example = min(row, len(self.examples) - 1)
        item = _item(
            self.examples, number=example, choose=lambda n: self._choose(epoch, n)
        )
        is_example = np.float32(row < len(self.examples))
        return item | {"weight": item["weight"] * is_example}

    def _choose(self, epoch: int, example: int) -> ChooseBox | None:
        if self.seed is None:
            return None
        return _crop(self.examples, self.seed, epoch, example, min_area=self.min_area)


def _crop(
    examples: Encoded, seed: int, epoch: int, example: int, *, min_area: float
) -> ChooseBox | None:
    """(height, width) -> the part of an example that an epoch sees; None where no crop
    is drawn.
    """
    if not min_area:
        return None
    # The row in the whole set, so that an example is cropped alike in every part of it.
    row = int(examples.rows[example])
    return lambda height, width: random_box(
        seed, epoch=epoch, row=row, height=height, width=width, min_area=min_area
    )


def _item(
    examples: Encoded,
    number: int,
    choose: Callable[[int], ChooseBox | None] = lambda number: None,
) -> Item:
    """An example, or zeros of weight 0 where it cannot be read. choose: (number) ->
    what chooses the part of the image.
    """
    try:
        image, label = examples.example(number, choose(number))
        weight, bad = 1, -1
    except Exception:
        # An exception in a worker would reach the training process without its type:
        # the example is read again there.
        image, label = np.zeros(examples.image_shape, np.uint8), 0
        weight, bad = 0, number
    return {
        "image": image,
        "label": np.int32(label),
        "weight": np.float32(weight),
        "bad": np.int64(bad),
    }
