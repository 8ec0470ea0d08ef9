"""What chips can do at most, as their makers publish it.

Sources, read in 2026: docs.cloud.google.com/tpu/docs/v4, /v5e, /v5p and /v6e; the data
sheets of NVIDIA's A100, H100 and H200 (SXM, dense figures). Rates are upper limits that
no program reaches.
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
    """What XLA's compiler must know of a GPU that is not there."""

    # The compute capability: 9.0 is (9, 0).
    capability: tuple[int, int]
    # Multiprocessors.
    cores: int
    # The shared memory that a block of threads can have, in bytes.
    shared: int
    # The L2 cache, in bytes.
    cache: int


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip, as its maker describes it."""

    name: str
    # JAX's name of the kind of device: tpu or gpu.
    platform: str
    # The bytes of its main memory that JAX takes, unless it is told otherwise.
    memory: float
    # The bytes a second that it can read from its main memory, or write there.
    bandwidth: float
    # The bytes a second that it can send to the other chips of its slice (TPU), or of
    # its host (GPU).
    link: float
    # The operations a second in products of numbers of this type; 0 where it has none.
    bfloat16: float
    # The same, with factors shortened to bfloat16 (TPU) or float16 (GPU). Products of
    # signs are exact that way. For others `config.matmul_precision` may ask for more
    # exact products, which are slower.
    float32: float
    float64: float = 0.0
    # The most chips that one host has.
    host_chips: int = 4
    # Whether the switch between the chips of a host can add up what they send.
    switch_adds: bool = False
    # What else XLA's compiler must know of a GPU.
    gpu: Gpu | None = None

    def peak(self, precision: str) -> float:
        """Operations a second, in products of that `config.precision`."""
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
    """A TPU, which multiplies bfloat16.

    gigabytes: a second, of its main memory.
    link_gigabits: a second, to other chips.
    teraflops: a second, in bfloat16.
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
    """A GPU, eight to a host.

    gigabytes: a second, of its main memory.
    link_gigabytes: a second, to other chips of its host.
    bfloat16, float64: its rates in teraflops; that of bfloat16 is float16's, too.
    compiler: what XLA must know of it.
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


# What the H100 and the H200 have in common.
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

# JAX's names of TPUs. A device of a v2 or v3 is half a chip; no plan is made for them.
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
    """The chip that JAX calls by this name, None for one that is not in `CHIPS`.

    `chip_of("NVIDIA H100 80GB HBM3")` is `CHIPS["h100"]`. Cards for PCIe have lower
    rates than `CHIPS` says, as has a part of a card (MIG). The memory of the H100 NVL
    has a higher rate.
    """
    name = _TPU_KINDS.get(device_kind)
    found = _GPU_KIND.search(device_kind)
    if found is not None:
        name = found[0].lower()
    return CHIPS.get(name) if name else None
