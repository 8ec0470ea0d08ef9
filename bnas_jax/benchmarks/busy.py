"""How busy NVIDIA's GPUs are while something runs, as `nvidia-smi` tells."""

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

# A line for each GPU every 200 milliseconds: the percentage of the last moments in
# which it ran a kernel.
_QUERY = (
    "--query-gpu=utilization.gpu",
    "--format=csv,noheader,nounits",
    "--loop-ms=200",
)
_PERCENT = re.compile(r"\d{1,2}|100")
# Seconds that a sample may look back, to before the measurement.
_LOOKS_BACK = 1.0


class Busy:
    """Collects samples of how busy the GPUs are, and gives their mean.

    percent: the share of the time in which a GPU ran a kernel, the mean over the GPUs
        and the samples so far. None before the first sample, which comes after a
        second, and where there is no driver.
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
        """Takes the lines of the driver, until they end."""
        for line in lines:
            # An early sample would tell of the time before the measurement.
            late = time.monotonic() - self._begun > _LOOKS_BACK
            if late and _PERCENT.fullmatch(line.strip()):
                self._samples.append(float(line))


@contextlib.contextmanager
def busy(gpus: int) -> Iterator[Busy]:
    """`with busy(gpus=1) as found: ...`, then `found.percent` of what ran within.

    gpus: how many of the GPUs that CUDA sees are asked about, the first ones.
    """
    found = Busy()
    program = shutil.which("nvidia-smi")
    if program is None or not gpus:
        yield found
        return

    # The driver's program runs beside what is measured; a thread reads what it writes.
    names = ",".join(_visible()[:gpus])
    with subprocess.Popen(
        [program, f"--id={names}", *_QUERY],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as asking:
        listener = threading.Thread(target=found.listen, args=(asking.stdout,))
        listener.start()
        # The driver's program goes on until it is killed.
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
