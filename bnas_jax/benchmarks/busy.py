"""How busy NVIDIA's GPUs are while something runs, as `nvidia-smi` reports it."""

import contextlib
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import IO

import numpy as np

# Prints a line for each GPU every 200 milliseconds: the percentage of recent time in
# which a kernel ran.
_QUERY = (
    "--query-gpu=utilization.gpu",
    "--format=csv,noheader,nounits",
    "--loop-ms=200",
)
_PERCENT = re.compile(r"\d{1,2}|100")
# The number of seconds that a sample may look back.
_LOOKS_BACK = 1.0


class Busy:
    """Collects samples of how busy the GPUs are.

    percent: the percentage of time in which a GPU ran a kernel, the mean over the GPUs
        and over the samples so far. None without a driver, and before the first sample,
        which is taken after a second.
    """

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._samples: list[float] = []

    @property
    def percent(self) -> float | None:
        if not self._samples:
            return None
        return round(float(np.mean(self._samples)), 1)

    def listen(self, lines: IO[str]) -> None:
        """Reads the lines of the driver until they end."""
        for line in lines:
            # An early sample would include time before the measurement.
            late = time.monotonic() - self._begun > _LOOKS_BACK
            if late and _PERCENT.fullmatch(line.strip()):
                self._samples.append(float(line))


@contextlib.contextmanager
def busy(gpus: int) -> Iterator[Busy]:
    """`with busy(gpus=1) as found: ...`, then `found.percent` of the time inside.

    gpus: the number of GPUs to watch, the first ones that CUDA sees.
    """
    found = Busy()
    program = shutil.which("nvidia-smi")
    if program is None or not gpus:
        yield found
        return

    # The driver's program runs during the measurement; a thread reads its output.
    names = ",".join(_visible()[:gpus])
    with subprocess.Popen(
        [program, f"--id={names}", *_QUERY],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as asking:
        listener = threading.Thread(target=found.listen, args=(asking.stdout,))
        listener.start()
        # The driver's program runs until it is killed.
        try:
            yield found
        finally:
            asking.kill()
            listener.join()


def _visible() -> list[str]:
    """The driver's names of the GPUs that CUDA sees, in its order."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen:
        return chosen.split(",")
    return [str(number) for number in range(64)]
