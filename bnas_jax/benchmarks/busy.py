"""How busy NVIDIA's GPUs are while something runs, as their driver tells: `nvidia-smi`."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator

import numpy as np

# Percent of the last moments in which the GPU ran a kernel; every 200 milliseconds.
_QUERY = ("--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--loop-ms=200")


class Busy:
    """percent: of the time, the mean over the GPUs of this machine; None where there is no GPU or driver that tells."""

    percent: float | None = None


@contextlib.contextmanager
def busy() -> Iterator[Busy]:
    """`with busy() as found: ...` and then `found.percent`, of what ran within."""
    found = Busy()
    program = shutil.which("nvidia-smi")
    if program is None:
        yield found
        return
    asking = subprocess.Popen(
        [program, *_QUERY], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        yield found
    finally:
        asking.terminate()
        said, _ = asking.communicate()
    shares = [float(line) for line in said.split() if line.replace(".", "").isdigit()]
    if shares:
        found.percent = round(float(np.mean(shares)), 1)
