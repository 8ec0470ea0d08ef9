"""Divides a set into two parts.

They are the halves on which a search trains weights and alpha, or a training and a test
set if a set has no test images.
"""

import math

import numpy as np

from bnas_jax.core.errors import UserError
from bnas_jax.data import order
from bnas_jax.data.arrays import Arrays
from bnas_jax.data.readers.encoded import Encoded

SPLITS = ("random", "stratified", "in_order")


def split_half(
    examples: Arrays | Encoded, seed: int, split: str = "random", *, share: float = 0.5
) -> tuple[Arrays | Encoded, Arrays | Encoded]:
    """The two parts of a training set: one for the weight steps, one for alpha steps.

    Each example is in exactly one part. Raises `UserError` for an unknown split, and
    where a part would be empty.

    split: `random`, drawn by the seed; `stratified`, drawn by the seed with the same
        share of each class; or `in_order`, the first examples and the last ones.
    share: the share of the examples that are in the first part, rounded up.
    """
    if split not in SPLITS:
        raise UserError(f"a split must be one of {', '.join(SPLITS)}, got {split!r}")
    if len(examples) < 2:
        raise UserError(
            f"{examples.name}: one example cannot be divided into two halves; a search "
            "needs more data"
        )

    rows = _rows(examples, seed, split)  # (N,)
    middle = math.ceil(share * len(rows))
    if not 0 < middle < len(rows):
        raise UserError(
            f"config.searcher.train_share={share} of {len(rows)} images leaves one "
            "part empty; change it"
        )
    first, second = rows[:middle], rows[middle:]
    return examples.take(first), examples.take(second)


def _rows(examples: Arrays | Encoded, seed: int, split: str) -> np.ndarray:
    """The order of the examples before the set is cut in two, int32 (N,)."""
    if split == "in_order":
        return np.arange(len(examples), dtype=np.int32)
    if split == "stratified":
        return order.shuffled_by_class(examples.labels, seed=seed, use=order.HALVES)
    return order.shuffled(len(examples), seed=seed, use=order.HALVES)


def split_test(examples: Encoded, share: float, seed: int) -> tuple[Encoded, Encoded]:
    """(training set, test set) of a set without test images.

    Both are in the order of `examples`. Raises `UserError` where one would be empty,
    and where a class would have no training image.

    share: the share of each class that is in the test set.
    seed: the seed by which these examples are drawn.
    """
    count = round(share * len(examples))
    if not 0 < count < len(examples):
        raise UserError(
            f"config.dataset.split={share} of {len(examples)} images leaves one part "
            "empty; change it"
        )

    rows = order.shuffled_by_class(examples.labels, seed=seed, use=order.TEST)  # (N,)
    test = np.sort(rows[:count])
    train = np.sort(rows[count:])
    # A network cannot learn a class without a training image.
    missing = np.setdiff1d(examples.labels, examples.labels[train])
    if len(missing):
        raise UserError(
            f"config.dataset.split={share} leaves no training image of the class "
            f"{examples.classes[missing[0]]!r}; lower it, or add images of that class"
        )
    return examples.take(train), examples.take(test)
