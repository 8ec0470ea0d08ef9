"""The quantization errors of Zeroise and of binary convolutions, for Figure 3."""

from typing import NamedTuple

import numpy as np


class Windows(NamedTuple):
    """Outputs of random convolutions at single windows, float and binary by Eq. (1)."""

    floats: np.ndarray  # (windows,)
    binary: np.ndarray  # (windows,)

    @property
    def zeroise_is_nearer(self) -> np.ndarray:
        """Whether 0, the output of Zeroise, has the smaller error; bool (windows,)."""
        return np.abs(self.floats) < np.abs(self.floats - self.binary)


def random_windows(
    count: int = 1000, *, kernel: int = 3, channels: int = 16, seed: int = 0
) -> Windows:
    """Single outputs of `count` convolutions with normally distributed w and x.

    The float output is sum(w * x). The binary output is
    beta * K * sum(sign w * sign x), where beta = mean |w| and K = mean |x| (Eq. 1).

    kernel: the size of the kernel. channels: the number of input channels.
    """
    # Draw a kernel and an input for each window.
    random = np.random.default_rng(seed)
    shape = (count, kernel, kernel, channels)
    weights = random.normal(size=shape)  # (windows, rows, columns, channels)
    inputs = random.normal(size=shape)  # (windows, rows, columns, channels)

    # Compute the float output, and the binary output by Eq. (1).
    axes = (1, 2, 3)
    floats = np.sum(weights * inputs, axis=axes)  # (windows,)
    beta = np.mean(np.abs(weights), axis=axes)  # (windows,)
    scale = np.mean(np.abs(inputs), axis=axes)  # K, (windows,)
    signs = np.sum(np.sign(weights) * np.sign(inputs), axis=axes)  # (windows,)
    return Windows(floats=floats, binary=beta * scale * signs)


def example(windows: Windows) -> int:
    """The index of a window like the one that Figure 3 labels.

    Among the windows whose float output is near zero, it is the one with the largest
    binary output.
    """
    near = np.abs(windows.floats) < 0.1 * np.std(windows.floats)
    distance = np.where(near, np.abs(windows.binary), -1)  # -1: never the largest
    return int(np.argmax(distance))
