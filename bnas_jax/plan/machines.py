"""Machines by the names that people rent them by: `v4-32`, `v5litepod-16`, `h100x8`."""

import dataclasses
import difflib
import re

from bnas_jax.core.errors import UserError
from bnas_jax.plan.chips import CHIPS, Chip

# Chips -> the shape of a slice of a three-dimensional torus (v4, v5p), and of a
# two-dimensional one (v5e, v6e).
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
# Up to this many chips of v5e and v6e stand in one host; larger slices have hosts of
# four.
_ONE_HOST = 8


@dataclasses.dataclass(frozen=True)
class Generation:
    """How Google Cloud names slices. shapes: chips -> shape. cores: of each chip, that
    the number in a name counts.
    """

    shapes: dict[int, str]
    cores: int = 1


_GENERATIONS = {
    "v4": Generation(_CUBES, cores=2),
    "v5p": Generation(_CUBES, cores=2),
    "v5e": Generation(_SQUARES),
    "v6e": Generation(_SQUARES),
}
_OTHER_NAMES = {"v5litepod": "v5e"}
# GPUs that are named where a number is refused; any number of whole hosts is taken.
_GPUS = (1, 2, 4, 8, 16, 32, 64)
_PATTERN = re.compile(r"(?:(tpu|gpu):)?(v\d[a-z]*|[a-z]+\d+)([-x])([1-9][0-9]{0,5})")


@dataclasses.dataclass(frozen=True)
class Machine:
    """name: as Google Cloud has it, or CHIPxN of GPUs. shape: of a slice of TPUs, such
    as 2x2x4; "" of GPUs.
    """

    name: str
    chip: Chip
    chips: int
    hosts: int
    shape: str = ""

    @property
    def platform(self) -> str:
        """tpu or gpu."""
        return self.chip.platform

    @property
    def chips_per_host(self) -> int:
        return self.chips // self.hosts


def machine(name: str) -> Machine:
    """The machine of a name, for instance `v4-32`, `tpu:v5e-16`, `h100x8`.

    v4-N and v5p-N count the cores, two a chip, v5e-N and v6e-N the chips. `UserError`
    for a name that is none, with the nearest that is one.
    """
    match = _PATTERN.fullmatch(name.strip().lower())
    if match is None:
        raise UserError(f"--on={name} is no machine; {_nearest(name)}")
    platform, generation, number = match[1], match[2], int(match[4])
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
    if match[3] != ("-" if chip.platform == "tpu" else "x"):
        raise UserError(f"--on={name} is no machine; {_nearest(name)}")
    made = _tpu_slice(chip, number) if chip.platform == "tpu" else _gpus(chip, number)
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
    """number: the one in the name."""
    generation = _GENERATIONS[chip.name]
    chips, rest = divmod(number, generation.cores)
    if rest or chips not in generation.shapes:
        return None
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
    if number > chip.host_chips and number % chip.host_chips:
        return None
    hosts = -(-number // chip.host_chips)
    return Machine(name=f"{chip.name}x{number}", chip=chip, chips=number, hosts=hosts)


def _nearest(name: str) -> str:
    known = [known for chip in CHIPS.values() for known in names_of(chip)]
    close = difflib.get_close_matches(
        name.lower().partition(":")[2] or name.lower(), known, 3
    )
    shown = close or ["v4-8", "v5e-8", "v5p-8", "v6e-8", "h100x8"]
    return f"write for instance {' or '.join(shown)}"
