"""Mean and standard deviation of each channel of images."""

import numpy as np

from bnas_jax.data import order
from bnas_jax.data.arrays import Arrays
from bnas_jax.data.readers.encoded import Encoded, hold

# (mean, std) of each channel, on the scale 0 to 1.
Statistics = tuple[tuple[float, ...], tuple[float, ...]]
# The number of images on which a set too large for memory is measured.
_SAMPLE = 1024


def measured(train: Arrays | Encoded) -> Statistics:
    """The statistics of a training set; those of a streamed set are of a sample."""
    if isinstance(train, Encoded):
        return of_images(_sample(train))
    return of_images(train.images)


def of_images(images: np.ndarray) -> Statistics:
    """Mean and standard deviation of each channel, on the scale 0 to 1.

    The deviation of a constant channel is returned as 1, so that one can divide by it.

    images: uint8 (N, H, W, C).
    """
    values = np.arange(256) / 255  # (256,)
    means, deviations = [], []
    for channel in range(images.shape[-1]):
        # Computed from the histogram of the 256 values, which needs no copy of the
        # images in floating point.
        pixels = images[..., channel]
        counts = np.bincount(pixels.ravel(), minlength=256)
        shares = counts / pixels.size  # (256,)
        mean = float(values @ shares)
        variance = float((values - mean) ** 2 @ shares)
        means.append(mean)
        deviations.append(variance**0.5 or 1.0)
    return tuple(means), tuple(deviations)


def _sample(train: Encoded) -> np.ndarray:
    """A random sample of a set too large for memory, uint8 (N, H, W, C).

    It is the same sample for every seed of a run.
    """
    drawn = order.shuffled(len(train), seed=0, use=order.SAMPLE)[:_SAMPLE]
    # Sorted, because reading in the order on disk is faster.
    sample = train.take(np.sort(drawn))
    return hold(sample).images
