"""Machines by name, as one rents them: `v4-32`, `v5litepod-16`, `h100x8`."""

import dataclasses
import difflib
import re

from bnas_jax.core.errors import UserError
from bnas_jax.plan.chips import CHIPS, Chip

# Number of chips -> the shape of a slice in a three-dimensional torus (v4, v5p).
_CUBES = {
    4: "2x2x1",
    8: "2x2x2",
    16: "2x2x4",
    32: "2x4x4",
    64: "4x4x4",
    128: "4x4x8",
    256: "4x8x8",
    512: "8x8x8",
    1024: "8x8x16",
    2048: "8x16x16",
}
# The same for a two-dimensional torus (v5e, v6e).
_SQUARES = {
    1: "1x1",
    4: "2x2",
    8: "2x4",
    16: "4x4",
    32: "4x8",
    64: "8x8",
    128: "8x16",
    256: "16x16",
}
# Up to this number, the chips of a v5e or v6e slice are in one host; larger slices have
# hosts of four chips.
_ONE_HOST = 8


@dataclasses.dataclass(frozen=True)
class Generation:
    """How Google Cloud names the slices of a generation of TPUs."""

    # Number of chips -> shape of the slice.
    shapes: dict[int, str]
    # How much a chip adds to the number in a name.
    cores: int = 1


_GENERATIONS = {
    "v4": Generation(_CUBES, cores=2),
    "v5p": Generation(_CUBES, cores=2),
    "v5e": Generation(_SQUARES),
    "v6e": Generation(_SQUARES),
}
_OTHER_NAMES = {"v5litepod": "v5e"}
# The numbers of GPUs that messages suggest; any number of complete hosts is accepted.
_GPUS = (1, 2, 4, 8, 16, 32, 64)
# [tpu:|gpu:] CHIP (-|x) NUMBER
_PATTERN = re.compile(r"(?:(tpu|gpu):)?(v\d[a-z]*|[a-z]+\d+)([-x])([1-9][0-9]{0,5})")


@dataclasses.dataclass(frozen=True)
class Machine:
    """A slice of TPUs, or one or more hosts with GPUs."""

    # Google Cloud's name (v4-32), or CHIPxN for GPUs (h100x8).
    name: str
    chip: Chip
    # The numbers of chips and hosts.
    chips: int
    hosts: int
    # The shape of a slice of TPUs, such as 2x2x4; "" for GPUs.
    shape: str = ""

    @property
    def platform(self) -> str:
        """tpu or gpu."""
        return self.chip.platform

    @property
    def chips_per_host(self) -> int:
        return self.chips // self.hosts


def machine(name: str) -> Machine:
    """The machine with a name such as `v4-32`, `tpu:v5e-16`, `h100x8`.

    v4-N and v5p-N count the cores, two per chip; v5e-N and v6e-N count the chips.
    Raises `UserError` for an unknown name, with the nearest known names.
    """
    match = _PATTERN.fullmatch(name.strip().lower())
    if match is None:
        raise UserError(f"--on={name} is not a machine; {_nearest(name)}")
    platform, generation, separator = match[1], match[2], match[3]
    number = int(match[4])

    # The chip; check that prefix and separator are those of its platform.
    generation = _OTHER_NAMES.get(generation, generation)
    chip = CHIPS.get(generation)
    if chip is None:
        raise UserError(
            f"--on={name}: there is no chip {generation!r} here; {_nearest(name)}"
        )
    if platform not in (None, chip.platform):
        raise UserError(
            f"--on={name}: {generation} is a {chip.platform.upper()}; leave the prefix "
            "out"
        )
    is_tpu = chip.platform == "tpu"
    expected = "-" if is_tpu else "x"
    if separator != expected:
        raise UserError(f"--on={name} is not a machine; {_nearest(name)}")

    # Its size.
    made = _tpu_slice(chip, number) if is_tpu else _gpus(chip, number)
    if made is None:
        raise UserError(
            f"--on={name}: a machine of that size is not planned for; write one of "
            f"{', '.join(names_of(chip))}"
        )
    return made


def names_of(chip: Chip) -> list[str]:
    """The names of the machines with these chips."""
    if chip.platform == "gpu":
        return [f"{chip.name}x{number}" for number in _GPUS]
    generation = _GENERATIONS[chip.name]
    return [f"{chip.name}-{chips * generation.cores}" for chips in generation.shapes]


def _tpu_slice(chip: Chip, number: int) -> Machine | None:
    """A slice of TPUs, None if there is none of that size.

    number: the number in the name, of cores or of chips.
    """
    generation = _GENERATIONS[chip.name]
    chips, rest = divmod(number, generation.cores)
    if rest or chips not in generation.shapes:
        return None

    # A small slice of v5e or v6e has one host.
    in_one = generation.shapes is _SQUARES and chips <= _ONE_HOST
    hosts = 1 if in_one else chips // chip.host_chips
    return Machine(
        name=f"{chip.name}-{number}",
        chip=chip,
        chips=chips,
        hosts=hosts,
        shape=generation.shapes[chips],
    )


def _gpus(chip: Chip, number: int) -> Machine | None:
    """A machine of `number` GPUs, None if they are several hosts, but not complete."""
    if number > chip.host_chips and number % chip.host_chips:
        return None
    hosts = -(-number // chip.host_chips)
    return Machine(name=f"{chip.name}x{number}", chip=chip, chips=number, hosts=hosts)


def _nearest(name: str) -> str:
    """The advice which names to write instead of an unknown one."""
    known: list[str] = []
    for chip in CHIPS.values():
        known += names_of(chip)

    # Without the prefix "tpu:" or "gpu:".
    lower = name.lower()
    wanted = lower.partition(":")[2] or lower
    close = difflib.get_close_matches(wanted, known, n=3)
    shown = close or ["v4-8", "v5e-8", "v5p-8", "v6e-8", "h100x8"]
    return f"write for instance {' or '.join(shown)}"
