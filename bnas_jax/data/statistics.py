"""Mean and standard deviation of each channel of images."""

import numpy as np

from bnas_jax.data import order
from bnas_jax.data.arrays import Arrays
from bnas_jax.data.readers.encoded import Encoded, hold

# (mean, std) of each channel, on the scale 0 to 1.
Statistics = tuple[tuple[float, ...], tuple[float, ...]]
# The number of images by which statistics of a set too large for memory are measured.
_SAMPLE = 1024


def measured(train: Arrays | Encoded) -> Statistics:
    """The statistics of a training set; of a streamed one, by a sample of it."""
    if isinstance(train, Encoded):
        return of_images(_sample(train))
    return of_images(train.images)


def of_images(images: np.ndarray) -> Statistics:
    """Mean and standard deviation of each channel, on the scale 0 to 1.

    The deviation of a constant channel is given as 1.

    images: uint8 (N, H, W, C).
    """
    values = np.arange(256) / 255  # (256,)
    means, deviations = [], []
    for channel in range(images.shape[-1]):
        # By the share of each of the 256 values, without a copy of the images in
        # floating point.
        pixels = images[..., channel]
        counts = np.bincount(pixels.ravel(), minlength=256)
        shares = counts / pixels.size  # (256,)
        mean = float(values @ shares)
        variance = float((values - mean) ** 2 @ shares)
        means.append(mean)
        deviations.append(variance**0.5 or 1.0)
    return tuple(means), tuple(deviations)


def _sample(train: Encoded) -> np.ndarray:
    """Some images of a set too large for memory, uint8 (N, H, W, C).

    They are drawn at random, always the same ones.
    """
    drawn = order.shuffled(len(train), seed=0, use=order.SAMPLE)[:_SAMPLE]
    # In their order on disk, which is read faster.
    sample = train.take(np.sort(drawn))
    return hold(sample).images
