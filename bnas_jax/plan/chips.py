"""The memory and the highest rates of chips, as their makers publish them.

Sources, read in 2026: docs.cloud.google.com/tpu/docs/v4, /v5e, /v5p and /v6e; the data
sheets of NVIDIA's A100, H100 and H200 (SXM, dense figures). The rates are upper limits
that no program reaches.
"""

import dataclasses
import re
from typing import Any

GIB = 2**30
TERA, GIGA = 1e12, 1e9
# The share of a GPU's memory that JAX takes, unless the variable
# XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise.
_GPU_SHARE = 0.75


@dataclasses.dataclass(frozen=True)
class Gpu:
    """The properties of a GPU that XLA's compiler needs, if the GPU is not there."""

    # The compute capability: (9, 0) is 9.0.
    capability: tuple[int, int]
    # The number of multiprocessors.
    cores: int
    # The largest shared memory of a block of threads, in bytes.
    shared: int
    # The size of the L2 cache, in bytes.
    cache: int


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip, as its maker describes it."""

    name: str
    # JAX's name of the platform: tpu or gpu.
    platform: str
    # The bytes of its main memory that JAX uses by default.
    memory: float
    # Bytes per second that it can read from and write to its main memory.
    bandwidth: float
    # Bytes per second that it can send to the other chips of its slice (TPU) or of its
    # host (GPU).
    link: float
    # Operations per second in products of bfloat16 numbers.
    bfloat16: float
    # Operations per second in products of float32 numbers that are rounded to bfloat16
    # (TPU) or float16 (GPU) first. This is exact for signs. For other products,
    # `config.matmul_precision` may ask for more precise and slower ones.
    float32: float
    # Operations per second in products of float64 numbers; 0 if it has none.
    float64: float = 0.0
    # The largest number of chips in a host.
    host_chips: int = 4
    # Whether the switch between the chips of a host can add up the arrays that they
    # send.
    switch_adds: bool = False
    # Further properties that XLA's compiler needs, for a GPU.
    gpu: Gpu | None = None

    def peak(self, precision: str) -> float:
        """Operations per second, in products of that `config.precision`."""
        peaks = {
            "bfloat16": self.bfloat16,
            "float32": self.float32,
            "float64": self.float64,
        }
        return peaks[precision]


def _tpu(
    name: str,
    *,
    memory_gib: float,
    gigabytes: float,
    link_gigabits: float,
    teraflops: float,
) -> Chip:
    """A TPU, whose products are of bfloat16 numbers.

    memory_gib: the size of its main memory, in GiB.
    gigabytes: the bandwidth of its main memory, in 1e9 bytes per second.
    link_gigabits: the bandwidth to other chips, in 1e9 bits per second.
    teraflops: 1e12 operations per second, in bfloat16.
    """
    peak = teraflops * TERA
    return Chip(
        name=name,
        platform="tpu",
        memory=memory_gib * GIB,
        bandwidth=gigabytes * GIGA,
        link=link_gigabits * GIGA / 8,
        bfloat16=peak,
        float32=peak,
    )


def _gpu(
    name: str,
    *,
    memory_gib: float,
    gigabytes: float,
    link_gigabytes: float,
    bfloat16: float,
    float64: float,
    compiler: Gpu,
) -> Chip:
    """A GPU, of which a host has eight.

    memory_gib: the size of its main memory, in GiB.
    gigabytes: the bandwidth of its main memory, in 1e9 bytes per second.
    link_gigabytes: the bandwidth to other GPUs of its host, in 1e9 bytes per second.
    bfloat16, float64: 1e12 operations per second; bfloat16 is also the rate of float16.
    compiler: the properties that XLA's compiler needs.
    """
    return Chip(
        name=name,
        platform="gpu",
        memory=_GPU_SHARE * memory_gib * GIB,
        bandwidth=gigabytes * GIGA,
        link=link_gigabytes * GIGA,
        bfloat16=bfloat16 * TERA,
        float32=bfloat16 * TERA,
        float64=float64 * TERA,
        host_chips=8,
        switch_adds=True,
        gpu=compiler,
    )


# The properties that the H100 and the H200 share.
_HOPPER: dict[str, Any] = {"link_gigabytes": 450, "bfloat16": 989, "float64": 67}
_H100 = Gpu(capability=(9, 0), cores=132, shared=232448, cache=52428800)
_H200 = dataclasses.replace(_H100, cache=62914560)

_A100 = _gpu(
    "a100",
    memory_gib=80,
    gigabytes=2039,
    link_gigabytes=300,
    bfloat16=312,
    float64=19.5,
    compiler=Gpu(capability=(8, 0), cores=108, shared=166912, cache=41943040),
)
_ALL = (
    _tpu("v4", memory_gib=32, gigabytes=1200, link_gigabits=2400, teraflops=275),
    _tpu("v5e", memory_gib=16, gigabytes=819, link_gigabits=1600, teraflops=197),
    _tpu("v5p", memory_gib=95, gigabytes=2765, link_gigabits=4800, teraflops=459),
    _tpu("v6e", memory_gib=32, gigabytes=1640, link_gigabits=3584, teraflops=918),
    _A100,
    _gpu("h100", memory_gib=80, gigabytes=3350, compiler=_H100, **_HOPPER),
    _gpu("h200", memory_gib=141, gigabytes=4800, compiler=_H200, **_HOPPER),
)
CHIPS = {chip.name: chip for chip in _ALL}

# JAX's names of TPUs. There are no plans for v2 and v3, whose devices are half a chip.
_TPU_KINDS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
}
# JAX's names of GPUs, for instance "NVIDIA H100 80GB HBM3".
_GPU_KIND = re.compile(r"\b[AH]\d00\b(?!.*\b(?:NVL|MIG)\b)")


def chip_of(device_kind: str) -> Chip | None:
    """The chip with this name in JAX, None for one that is not in `CHIPS`.

    `chip_of("NVIDIA H100 80GB HBM3")` is `CHIPS["h100"]`. So is a PCIe card, although
    its rates are lower. It is None for a part of a GPU (MIG), and for the H100 NVL,
    whose memory is faster.
    """
    name = _TPU_KINDS.get(device_kind)
    found = _GPU_KIND.search(device_kind)
    if found is not None:
        name = found[0].lower()
    return CHIPS.get(name) if name else None
