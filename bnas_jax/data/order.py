"""Random orders that are the same on every machine.

They depend neither on the device, nor on versions of JAX and NumPy, nor on 64-bit mode.
"""

import numpy as np

from bnas_jax.core.errors import UserError

# The uses of random numbers. Each use has a stream of its own, even for equal seeds.
EPOCHS = 0  # the order of the examples in an epoch
HALVES = 1  # the two parts of a search's training set
TEST = 2  # the test set that `config.dataset.split` makes
CROPS = 3  # random resized crops of streamed images
SAMPLE = 4  # images on which statistics are measured, files whose sizes are hashed
FRESH = 5  # batches that are drawn from all examples


def check_seed(seed: int) -> int:
    """The seed itself if it is a whole number of 32 bits, else raises `UserError`."""
    # In Python a bool is an int, too.
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

    The raw 64-bit words of PCG64 are sorted: NumPy promises to keep their stream,
    unlike that of `Generator.permutation` (NEP 19). JAX's own permutation would depend
    on its version.
    """
    generator = np.random.PCG64([check_seed(seed), use, number])
    words = generator.random_raw(size)  # uint64 (size,)
    return np.argsort(words, kind="stable").astype(np.int32)


def shuffled_by_class(labels: np.ndarray, seed: int, use: int) -> np.ndarray:
    """A random order in which the examples of each class are evenly spread: int32 (N,).

    For every n, the classes have about the same shares in the first n examples as in
    all. The first half has half of the examples of each class, to within one.

    labels: int (N,).
    """
    # The examples class by class, in random order within each class.
    rows = shuffled(len(labels), seed, use)  # (N,)
    by_class = rows[np.argsort(labels[rows], kind="stable")]  # (N,)

    # The rank of each example in its class.
    counts = np.bincount(labels)  # (classes,)
    first = np.cumsum(counts) - counts  # (classes,), where each class begins
    rank = np.arange(len(labels)) - np.repeat(first, counts)  # (N,)

    # Each class divides the interval from 0 to 1 into as many equal parts as it has
    # examples, and places an example in the middle of each part.
    size = np.repeat(counts, counts)  # (N,), the size of the example's class
    place = np.empty(len(labels))  # (N,)
    place[by_class] = (rank + 0.5) / size

    # Sort by place. Equal places (classes of equal size) stay in random order.
    return rows[np.argsort(place[rows], kind="stable")]
