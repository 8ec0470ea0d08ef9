"""The division of a set: into the two halves of a search, or a training and a test set where it has none."""

import math

import numpy as np

from bnas_jax.core.errors import UserError
from bnas_jax.data import order
from bnas_jax.data.arrays import Arrays
from bnas_jax.data.encoded import Encoded


def split_half(
    examples: Arrays | Encoded, seed: int, split: str = "random", *, share: float = 0.5
) -> tuple[Arrays | Encoded, Arrays | Encoded]:
    """Two halves: one for the weights, one for the architecture parameters.

    Each example is in exactly one of them; of an odd number the first half has one more. split: drawn at `random`;
    `stratified`, so that each class is halved; or `in_order`, the first half of the set and the second. share: of the first
    part, where they are no halves.
    """
    if len(examples) < 2:
        raise UserError(
            f"{examples.name}: one example cannot be divided into two halves; a search needs more data"
        )
    rows = _rows(examples, seed, split)
    middle = math.ceil(share * len(rows))
    if not 0 < middle < len(rows):
        raise UserError(
            f"config.searcher.train_share={share} of {len(rows)} images leaves one part empty; change it"
        )
    return examples.take(rows[:middle]), examples.take(rows[middle:])


def _rows(examples: Arrays | Encoded, seed: int, split: str) -> np.ndarray:
    if split == "in_order":
        return np.arange(len(examples), dtype=np.int32)
    if split == "stratified":
        return order.shuffled_by_class(examples.labels, seed, order.HALVES)
    return order.shuffled(len(examples), seed, order.HALVES)


def split_test(examples: Encoded, share: float, seed: int) -> tuple[Encoded, Encoded]:
    """(training set, test set): `share` of each class, drawn by `seed`, is the test set. Both in the order of `examples`."""
    count = round(share * len(examples))
    if not 0 < count < len(examples):
        raise UserError(
            f"config.dataset.split={share} of {len(examples)} images leaves one part empty; change it"
        )
    rows = order.shuffled_by_class(examples.labels, seed, order.TEST)
    return examples.take(np.sort(rows[count:])), examples.take(np.sort(rows[:count]))
