"""Figure 3 in numbers: where Zeroise is nearer to a float convolution than its binary
form is.
"""

from typing import NamedTuple

import numpy as np


class Windows(NamedTuple):
    """What convolutions give at random windows, an array (windows,) each: in float, and
    binary by Eq. (1).
    """

    floats: np.ndarray
    binary: np.ndarray

    @property
    def zeroise_is_nearer(self) -> np.ndarray:
        """Where the output 0 of Zeroise has a smaller quantization error than the
        binary convolution.
        """
        return np.abs(self.floats) < np.abs(self.floats - self.binary)


def random_windows(
    count: int = 1000, *, kernel: int = 3, channels: int = 16, seed: int = 0
) -> Windows:
    """Convolutions of kernels and inputs that are drawn from a normal distribution, one
    output each.

    The binary output is beta * K * sum(sign w * sign x), where beta is the mean of |w|
    and K that of |x| (Eq. 1).
    """
    random = np.random.default_rng(seed)
    shape = (count, kernel, kernel, channels)
    weights = random.normal(size=shape)
    inputs = random.normal(size=shape)
    axes = (1, 2, 3)
    floats = np.sum(weights * inputs, axis=axes)
    beta = np.mean(np.abs(weights), axis=axes)
    scale = np.mean(np.abs(inputs), axis=axes)
    signs = np.sum(np.sign(weights) * np.sign(inputs), axis=axes)
    return Windows(floats=floats, binary=beta * scale * signs)


def example(windows: Windows) -> int:
    """The window that Figure 3 is about: of those near zero in float, the one that is
    farthest from it in binary.
    """
    near = np.abs(windows.floats) < 0.1 * np.std(windows.floats)
    return int(np.argmax(np.where(near, np.abs(windows.binary), -1)))
