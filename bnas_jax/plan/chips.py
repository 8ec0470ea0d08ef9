"""What chips can do at most, as their makers publish it.

Sources, read in 2026: docs.cloud.google.com/tpu/docs/v4, /v5e, /v5p and /v6e; the data sheets of NVIDIA's A100, H100 and H200
(SXM, dense figures). Rates are upper limits that no program reaches.
"""

import dataclasses
import re

GIB = 2**30
TERA, GIGA = 1e12, 1e9
# Of a GPU's memory; the variable XLA_PYTHON_CLIENT_MEM_FRACTION changes it.
_GPU_SHARE = 0.75


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip. memory: bytes that JAX takes of it unless it is told otherwise. bandwidth: of its memory, bytes a second. link:
    bytes a second that it can send to the chips of its slice, or of its host. switch_adds: whether the switch between them can
    add up what they send.

    bfloat16, float32, float64: operations a second of products; 0 where it has none. Those of float32 are with factors that are
    shortened (to bfloat16 on TPUs, to float16 on GPUs): products of signs are exact so, whatever `config.matmul_precision`
    says of others. host_chips: chips that one host has at most.
    """

    name: str
    platform: str
    memory: float
    bandwidth: float
    link: float
    bfloat16: float
    float32: float
    float64: float = 0.0
    host_chips: int = 4
    switch_adds: bool = False

    def peak(self, precision: str) -> float:
        """Operations a second, of products of that `config.precision`."""
        return {"bfloat16": self.bfloat16, "float32": self.float32, "float64": self.float64}[
            precision
        ]


def _tpu(
    name: str, *, memory_gib: float, gigabytes: float, link_gigabits: float, teraflops: float
) -> Chip:
    """A TPU, which multiplies bfloat16."""
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
) -> Chip:
    """A GPU of eight to a host; rates in teraflops. That of bfloat16 is also its float16's."""
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
    )


_HOPPER = {"link_gigabytes": 450, "bfloat16": 989, "float64": 67}

CHIPS = {
    chip.name: chip
    for chip in (
        _tpu("v4", memory_gib=32, gigabytes=1200, link_gigabits=2400, teraflops=275),
        _tpu("v5e", memory_gib=16, gigabytes=819, link_gigabits=1600, teraflops=197),
        _tpu("v5p", memory_gib=95, gigabytes=2765, link_gigabits=4800, teraflops=459),
        _tpu("v6e", memory_gib=32, gigabytes=1640, link_gigabits=3584, teraflops=918),
        _gpu(
            "a100",
            memory_gib=80,
            gigabytes=2039,
            link_gigabytes=300,
            bfloat16=312,
            float64=19.5,
        ),
        _gpu("h100", memory_gib=80, gigabytes=3350, **_HOPPER),
        _gpu("h200", memory_gib=141, gigabytes=4800, **_HOPPER),
    )
}

# JAX's names of TPUs. A device of a v2 or v3 is half a chip, and they are not planned for.
_TPU_KINDS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
}
_GPU_KIND = re.compile(r"\b[AH]\d00\b(?!.*\b(?:NVL|MIG)\b)")


def chip_of(device_kind: str) -> Chip | None:
    """The chip that JAX calls so, None for one that is not among these.

    `chip_of("NVIDIA H100 80GB HBM3")` is `CHIPS["h100"]`. Cards for PCIe have lower rates than these, as has a part of a
    card (MIG); the H100 NVL's memory has a higher one.
    """
    name = _TPU_KINDS.get(device_kind)
    found = _GPU_KIND.search(device_kind)
    if found is not None:
        name = found[0].lower()
    return CHIPS.get(name) if name else None
