"""The items of a stream: which example is read, and how its image is cropped.

An item is a function of its number alone, so that any worker can make any item. The
functions, `TrainItem` and `EvalItem`, are pickled for worker processes.
"""

import dataclasses
from typing import Any

import numpy as np

from bnas_jax.data import order
from bnas_jax.data.readers.encoded import ChooseBox, Encoded
from bnas_jax.data.readers.images import Box

# A worker keeps the random orders whose numbers differ by at most this from the number
# in use. Fresh batches have an order for each step: it is kept for more steps than are
# read ahead. Of the epochs, it keeps the order of the previous and of the next one.
_FRESH_KEPT = 256
_EPOCHS_KEPT = 1
# The ratios of width to height of random crops, and the tries to draw one that fits, as
# in torchvision.
_RATIOS = (3 / 4, 4 / 3)
_TRIES = 10

# One example: image uint8 (H, W, C), label, weight, and `bad`, which is the number of
# the example if its image could not be read, else -1.
Item = dict[str, Any]


def random_box(
    seed: int, epoch: int, row: int, *, height: int, width: int, min_area: float
) -> Box:
    """The random crop of image `row` in epoch `epoch`.

    As in torchvision's RandomResizedCrop, its area is uniform between the share
    `min_area` and all of the image, and the logarithm of its ratio of width to height
    is uniform between 3:4 and 4:3. If ten such crops do not fit into the image, it is
    the largest one in the middle whose ratio is in that range.

    height, width: the size of the image, in pixels.
    min_area: the least share of the image's area.
    """
    # Four numbers in [0, 1) for each try, from the raw words of PCG64, whose stream
    # NumPy promises to keep.
    generator = np.random.PCG64([seed, order.CROPS, epoch, row])
    words = generator.random_raw(4 * _TRIES).reshape(_TRIES, 4)
    uniform = (words >> np.uint64(11)) * 2.0**-53  # (tries, 4)

    # The first try that fits into the image.
    lowest, highest = _RATIOS
    for area, ratio, top, left in uniform:
        pixels = height * width * (min_area + (1 - min_area) * area)
        # In the logarithm, so that 3:4 is as likely as 4:3.
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

    # None fitted, as in a very wide or very high image: take the middle of it.
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
    """`item(number)`: an example of the endless sequence that a host trains on.

    Each worker process has a copy, which keeps the random orders that it has drawn.

    seed: the seed of the order and of the crops.
    min_area: the least share of a random crop, see `random_box`; 0 does not crop.
    first: the row of the global batch at which the host's part begins.
    local: the number of rows in that part.
    fresh: see `pipeline.TrainSource`.
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
        # From the number in the host's sequence to the step, its epoch, and the row of
        # the global batch.
        step, within = divmod(number, self.local)
        steps_per_epoch = len(self.examples) // self.batch_size
        epoch, index = divmod(step, steps_per_epoch)
        row = self.first + within

        # The example in that row.
        if self.fresh:
            example = self._order(order.FRESH, step)[row]
        else:
            position = index * self.batch_size + row
            example = self._order(order.EPOCHS, epoch)[position]
        example = int(example)

        # If bad images are skipped, the next image that can be read replaces one that
        # cannot.
        tries = 1
        if self.examples.options.skip_bad:
            tries = len(self.examples)
        for tried in range(tries):
            taken = (example + tried) % len(self.examples)
            item = _item(
                self.examples,
                number=taken,
                seed=self.seed,
                epoch=epoch,
                min_area=self.min_area,
            )
            if item["bad"] < 0:
                break

        # Report the example that failed, even if another one replaced it.
        bad = -1
        if tried or item["bad"] >= 0:
            bad = example
        return item | {"bad": np.int64(bad)}

    def _order(self, use: int, number: int) -> np.ndarray:
        """The random order of an epoch, int32 (N,), or of a fresh batch, int32 (B,).

        It is drawn once, and kept while numbers near it are in use.

        use: `order.EPOCHS` or `order.FRESH`.
        number: the number of the epoch, or of the step.
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

        # Other threads may change the dict at the same time: iterate over a copy of its
        # keys, and pop with a default.
        for old in list(self._orders):
            if abs(old - number) > kept:
                self._orders.pop(old, None)
        self._orders[number] = drawn
        return drawn


@dataclasses.dataclass(frozen=True, eq=False)
class EvalItem:
    """`item(number)`: an example of the sequence that a host evaluates.

    The sequence is endless: one evaluation follows another.

    batches: the number of batches in an evaluation.
    first, local, min_area: as in `TrainItem`.
    seed: the seed of the augmentation; None if there is none.
    """

    examples: Encoded
    batch_size: int
    batches: int
    first: int
    local: int
    seed: int | None
    min_area: float

    def __call__(self, number: int) -> Item:
        # From the number in the host's sequence to the row of the whole set.
        batch, within = divmod(number, self.local)
        epoch, index = divmod(batch, self.batches)
        row = index * self.batch_size + self.first + within

        # Padding repeats the last example, with weight 0.
        example = min(row, len(self.examples) - 1)
        item = _item(
            self.examples,
            number=example,
            seed=self.seed,
            epoch=epoch,
            min_area=self.min_area,
        )
        is_example = np.float32(row < len(self.examples))
        return item | {"weight": item["weight"] * is_example}


def _crop(
    examples: Encoded, number: int, *, seed: int | None, epoch: int, min_area: float
) -> ChooseBox | None:
    """(height, width) -> the crop of an example in an epoch; None without crops."""
    if seed is None or not min_area:
        return None
    # The row in the whole set: an example has the same crop in each part of the set.
    row = int(examples.rows[number])

    def choose(height: int, width: int) -> Box:
        return random_box(
            seed, epoch=epoch, row=row, height=height, width=width, min_area=min_area
        )

    return choose


def _item(
    examples: Encoded, number: int, *, seed: int | None, epoch: int, min_area: float
) -> Item:
    """An example in an epoch, or zeros with weight 0 if it cannot be read.

    seed: the seed of random crops; None does not crop.
    min_area: the least share of a random crop, see `random_box`; 0 does not crop.
    """
    try:
        crop = _crop(examples, number, seed=seed, epoch=epoch, min_area=min_area)
        image, label = examples.example(number, crop)
        weight, bad = 1, -1
    # An exception in a worker would lose its type on the way to the training process.
    # That process reads the example again, see `ReadAhead._report`.
    except Exception:
        image, label = np.zeros(examples.image_shape, np.uint8), 0
        weight, bad = 0, number
    return {
        "image": image,
        "label": np.int32(label),
        "weight": np.float32(weight),
        "bad": np.int64(bad),
    }
