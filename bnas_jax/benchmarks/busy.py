"""How busy NVIDIA's GPUs are while something runs, as their driver tells: `nvidia-smi`."""

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

# Percent of the last moments in which a GPU ran a kernel, every 200 milliseconds, a
# line for each GPU.
_QUERY = (
    "--query-gpu=utilization.gpu",
    "--format=csv,noheader,nounits",
    "--loop-ms=200",
)
_PERCENT = re.compile(r"\d{1,2}|100")
# Seconds that a first sample may look back.
_LOOKS_BACK = 1.0


class Busy:
    """Collects what the driver says of the GPUs, and gives the mean.

    percent: the share of the time in which a GPU ran a kernel, the mean over these GPUs
    and the samples so far. None before the first sample, which comes after a second,
    and where there is no driver to tell.
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
        """Takes what the driver says, until it says no more."""
        for line in lines:
            late = time.monotonic() - self._begun > _LOOKS_BACK
            if late and _PERCENT.fullmatch(line.strip()):
                self._samples.append(float(line))


@contextlib.contextmanager
def busy(gpus: int) -> Iterator[Busy]:
    """`with busy(gpus=1) as found: ...` and then `found.percent`, of what ran within.
    gpus: how many of CUDA's.
    """
    found = Busy()
    program = shutil.which("nvidia-smi")
    if program is None or not gpus:
        yield found
        return
    which = f"--id={','.join(_visible()[:gpus])}"
    with subprocess.Popen(
        [program, which, *_QUERY],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as asking:
        listener = threading.Thread(target=found.listen, args=(asking.stdout,))
        listener.start()
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
