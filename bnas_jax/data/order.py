"""Random orders that stay the same: on every machine, device and version, with and
without 64-bit mode.
"""

import numpy as np

from bnas_jax.core.errors import UserError

# What an order is for; no two uses share a stream of random numbers even where their
# seeds are equal.
EPOCHS = 0
HALVES = 1
TEST = 2
CROPS = 3
SAMPLE = 4  # images by which statistics are measured, files whose sizes are hashed
FRESH = 5  # batches that are drawn from all examples


def check_seed(seed: int) -> int:
    """The seed itself if it is a whole number of 32 bits, else `UserError`."""
    # In Python, a bool is an int.
    is_bool = isinstance(seed, bool)
    is_integer = isinstance(seed, (int, np.integer)) and not is_bool
    if not is_integer or not 0 <= seed < 2**32:
        raise UserError(
            f"the seed must be a whole number from 0 to 4294967295, got {seed!r}: "
            "change config.seed"
        )
    return int(seed)


def shuffled(size: int, seed: int, use: int, number: int = 0) -> np.ndarray:
    """The `number`-th random order of 0..size-1 for a seed and a use: int32 (size,).

    Sorts the raw 64-bit words of PCG64, whose stream NumPy promises to keep, unlike
    that of `Generator.permutation` (NEP 19); JAX's own permutation would depend on its
    version.
    """
    generator = np.random.PCG64([check_seed(seed), use, number])
    words = generator.random_raw(size)  # uint64 [size]
    return np.argsort(words, kind="stable").astype(np.int32)


def shuffled_by_class(labels: np.ndarray, seed: int, use: int) -> np.ndarray:
    """A random order in which classes are evenly spread: int32 (N,). labels: int (N,).

    The first n examples have about each class's share for every n, and the first half
    has each class's half to within one.
    """
    # Class by class, in random order within each.
    rows = shuffled(len(labels), seed, use)
    by_class = rows[np.argsort(labels[rows], kind="stable")]

    # The rank of each example in its class.
    counts = np.bincount(labels)  # [classes]
    first = np.cumsum(counts) - counts  # [classes], where each class begins
    rank = np.arange(len(labels)) - np.repeat(first, counts)  # [N]

    # The middle of the example's part of its class; equal ones, of classes of equal
    # size, in random order.
    size = np.repeat(counts, counts)  # [N], of the example's class
    place = np.empty(len(labels))
    place[by_class] = (rank + 0.5) / size
    return rows[np.argsort(place[rows], kind="stable")]
