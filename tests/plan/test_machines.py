"""Names of machines: what they mean, and what is said of those that are none."""

import pytest

from bnas_jax.core.errors import UserError
from bnas_jax.plan.chips import CHIPS
from bnas_jax.plan.machines import machine, names_of


@pytest.mark.parametrize(
    ("name", "chips", "hosts", "shape"),
    [
        ("v4-8", 4, 1, "2x2x1"),
        ("v4-32", 16, 4, "2x2x4"),
        ("v5p-8", 4, 1, "2x2x1"),
        ("v5e-1", 1, 1, "1x1"),
        ("v5e-8", 8, 1, "2x4"),
        ("v5litepod-16", 16, 4, "4x4"),
        ("tpu:v6e-256", 256, 64, "16x16"),
        ("h100x8", 8, 1, ""),
        ("gpu:a100x1", 1, 1, ""),
        ("H200x16", 16, 2, ""),
        ("h100x24", 24, 3, ""),
    ],
)
def test_a_name_says_chips_and_hosts(name, chips, hosts, shape):
    """v4 and v5p count cores, two a chip; v5e, v6e and GPUs chips."""
    made = machine(name)

    assert (made.chips, made.hosts, made.shape) == (chips, hosts, shape)


def test_every_name_means_a_machine_of_its_chip():
    for chip in CHIPS.values():
        for name in names_of(chip):
            made = machine(name)
            assert made.chip is chip
            assert made.name == name
            assert made.chips == made.hosts * made.chips_per_host
            if made.shape:
                sides = [int(side) for side in made.shape.split("x")]
                assert made.chips == sides[0] * sides[1] * (
                    sides[2] if len(sides) == 3 else 1
                )


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "v4-12",
            "a machine of that size is not planned for; write one of v4-8, v4-16",
        ),
        ("v4-9", "a machine of that size is not planned for"),
        (
            "h100x12",
            "a machine of that size is not planned for; write one of h100x1, h100x2",
        ),
        ("v4x8", "is not a machine; write for instance v4-8"),
        ("h100-8", "is not a machine; write for instance h100x8"),
        ("v5e-٨", "is not a machine"),
        ("v5e-" + 5000 * "9", "is not a machine"),
        ("v4", "is not a machine; write for instance v4-"),
        ("v9-8", "there is no chip 'v9' here"),
        ("gpu:v4-8", "v4 is a TPU; leave the prefix out"),
        ("tpu:h100x8", "h100 is a GPU; leave the prefix out"),
        ("", "is not a machine"),
    ],
)
def test_a_name_that_is_none_is_answered_with_one_that_is(name, said):
    with pytest.raises(UserError, match=said):
        machine(name)


def test_peaks_of_products():
    """A TPU multiplies bfloat16 alone, a GPU signs as float16: both are exact."""
    v4, h100 = CHIPS["v4"], CHIPS["h100"]

    assert v4.peak("bfloat16") == v4.peak("float32") == 275e12
    assert v4.peak("float64") == 0
    assert h100.peak("bfloat16") == 989e12
    assert h100.peak("float32") == 989e12
    assert h100.peak("float64") == 67e12


def test_of_the_memory_of_a_gpu_jax_takes_three_quarters():
    assert CHIPS["v4"].memory == 32 * 2**30
    assert CHIPS["h100"].memory == 60 * 2**30
