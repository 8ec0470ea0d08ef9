"""The division of a set: into the two halves of a search, or a training and a test set where it has none."""

import numpy as np

from bnas_jax.core.errors import UserError
from bnas_jax.data import order
from bnas_jax.data.arrays import Arrays
from bnas_jax.data.encoded import Encoded


def split_half(examples: Arrays | Encoded, seed: int, stratified: bool = False) -> tuple[Arrays | Encoded, Arrays | Encoded]:
    """Halves drawn at random: one for the weights, one for the architecture parameters.

    Each example is in exactly one of them; of an odd number the first half has one more. stratified: each class is halved.
    """
    if len(examples) < 2:
        raise UserError(f"{examples.name}: one example cannot be divided into two halves; a search needs more data")
    if stratified:
        rows = order.shuffled_by_class(examples.labels, seed, order.HALVES)
    else:
        rows = order.shuffled(len(examples), seed, order.HALVES)
    middle = (len(rows) + 1) // 2
    return examples.take(rows[:middle]), examples.take(rows[middle:])


def split_test(examples: Encoded, share: float, seed: int) -> tuple[Encoded, Encoded]:
    """(training set, test set): `share` of each class, drawn by `seed`, is the test set. Both in the order of `examples`."""
    count = round(share * len(examples))
    if not 0 < count < len(examples):
        raise UserError(f"config.dataset.split={share} of {len(examples)} images leaves one part empty; change it")
    rows = order.shuffled_by_class(examples.labels, seed, order.TEST)
    return examples.take(np.sort(rows[count:])), examples.take(np.sort(rows[:count]))
