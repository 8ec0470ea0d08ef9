"""Figure 3 in numbers: quantization errors of Zeroise and of binary convolutions."""

from typing import NamedTuple

import numpy as np


class Windows(NamedTuple):
    """Outputs of convolutions at random windows, in float and binary by Eq. (1)."""

    floats: np.ndarray  # (windows,)
    binary: np.ndarray  # (windows,)

    @property
    def zeroise_is_nearer(self) -> np.ndarray:
        """Where Zeroise's output 0 has the smaller quantization error, (windows,)."""
        return np.abs(self.floats) < np.abs(self.floats - self.binary)


def random_windows(
    count: int = 1000, *, kernel: int = 3, channels: int = 16, seed: int = 0
) -> Windows:
    """`count` convolutions of normally distributed kernels and inputs, one output each.

    The binary output is beta * K * sum(sign w * sign x), where beta is the mean of |w|
    and K that of |x| (Eq. 1).
    """
    # A kernel and an input for each window.
    random = np.random.default_rng(seed)
    shape = (count, kernel, kernel, channels)
    weights = random.normal(size=shape)  # (windows, rows, columns, channels)
    inputs = random.normal(size=shape)  # (windows, rows, columns, channels)

    # The float output, and the binary one by Eq. (1).
    axes = (1, 2, 3)
    floats = np.sum(weights * inputs, axis=axes)  # (windows,)
    beta = np.mean(np.abs(weights), axis=axes)  # (windows,)
    scale = np.mean(np.abs(inputs), axis=axes)  # K, (windows,)
    signs = np.sum(np.sign(weights) * np.sign(inputs), axis=axes)  # (windows,)
    return Windows(floats=floats, binary=beta * scale * signs)


def example(windows: Windows) -> int:
    """The number of a window as in Figure 3.

    Of the outputs near zero in float, it has the one farthest from zero in binary.
    """
    near = np.abs(windows.floats) < 0.1 * np.std(windows.floats)
    distance = np.where(near, np.abs(windows.binary), -1)  # -1: never the largest
    return int(np.argmax(distance))
