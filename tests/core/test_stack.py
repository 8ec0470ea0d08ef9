"""The plan of a network: where its reductions are, how wide its cells are, and which
images it can take.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from bnas_jax.core.errors import UserError
from bnas_jax.core.stack import (
    Place,
    check_image_size,
    check_images,
    reductions,
    stack,
)


@pytest.mark.parametrize(
    ("num_cells", "expected"),
    [
        (1, (0,)),
        (2, (0, 1)),
        (3, (1, 2)),
        (5, (1, 3)),
        (8, (2, 5)),
        (10, (3, 6)),
        (20, (6, 13)),
    ],
)
def test_reductions_lie_at_a_third_and_two_thirds(num_cells, expected):
    assert reductions(num_cells) == expected
    assert (
        tuple(place.index for place in stack(num_cells, 4) if place.reduction)
        == expected
    )


@pytest.mark.parametrize("halved", [False, True])
def test_channels_double_at_reductions_and_the_cell_behind_one_has_inputs_of_two_sizes(
    halved,
):
    places = stack(5, 6, halved=halved)
    assert [place.index for place in places] == [0, 1, 2, 3, 4]
    assert [place.channels for place in places] == [6, 12, 12, 24, 24]
    assert [place.halved for place in places] == [halved, False, True, False, True]
    assert [place.kind for place in places] == [
        "normal",
        "reduce",
        "normal",
        "reduce",
        "normal",
    ]
    assert [place.follows_a_cell for place in places] == [False, True, True, True, True]
    assert [place.name for place in places] == [f"cell{index}" for index in range(5)]


def test_only_the_inputs_of_a_reduction_cell_are_strided():
    strides = lambda reduction: [
        Place(1, 4, reduction, False).stride(source) for source in range(5)
    ]
    assert strides(False) == [1] * 5
    assert strides(True) == [2, 2, 1, 1, 1]


@pytest.mark.parametrize(
    ("shape", "num_cells", "expected"),
    [
        (
            (1, 7, 8, 1),
            5,
            "images of 7 pixels at the first cell cannot be halved by 2 reduction "
            "cells",
        ),
        ((1, 8, 30, 1), 5, "images of 30 pixels .* for instance 28"),
        (
            (1, 3, 32, 32), 5,
            r"images of 3 pixels .* for instance 4, and images \(N, H, W, C\)$",
        ),
        ((1, 9, 9, 3), 1, "cannot be halved by 1 reduction cells; use a multiple of 2"),
    ],
)  # fmt: skip
def test_images_that_the_reductions_cannot_halve_are_refused(
    shape, num_cells, expected
):
    with pytest.raises(UserError, match=expected) as caught:
        check_image_size(shape, num_cells)
    assert "\n" not in str(caught.value)
    check_image_size((1, 28, 8, 1), 5)
    check_image_size((1, 10, 2, 1), 1)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((8, 8, 1), np.float32), r"must be \(N, H, W, C\), got \(8, 8, 1\)"),
        (np.zeros((0, 8, 8, 1), np.float32), r"got \(0, 8, 8, 1\)"),
        (np.zeros((1, 8, 8, 1), np.uint8), r"normalised as in training, got uint8"),
    ],
)
def test_pixels_and_single_images_are_no_input(images, message):
    with pytest.raises(UserError, match=message):
        check_images(images)
    with pytest.raises(UserError, match="images must be an array, got a list"):
        check_images([[[[0.0]]]])
    check_images(np.zeros((1, 8, 8, 1), jnp.bfloat16))
