"""Bi-Real Net's and ReActNet's networks by their published names: `load_published` and
the numbers of the authors' code.
"""

import jax
import numpy as np
import pytest
from published import check_network, whole_network

from bnas_jax.core.errors import UserError
from bnas_jax.interop.published import load_published

pytestmark = pytest.mark.usefixtures("quick_compilation")

# The others take longer; their blocks: baselines/test_published_blocks.py.
LONG = ("reactnet_resnet18", "reactnet_mobilenet")
NAMES = ("bireal_resnet18", *(pytest.param(n, marks=pytest.mark.long) for n in LONG))


@pytest.mark.parametrize("name", NAMES)
def test_numbers_of_the_authors_code(reference, name):
    check_network(whole_network(reference, name))


def test_names_of_several_gpus_and_a_missing_array(reference):
    arrays = dict(np.load(reference / "schemes" / "bireal_resnet18.npz"))
    shared = {
        name.replace("state.", "module."): array
        for name, array in arrays.items()
        if name.startswith("state.")
    }
    ours, same = (
        load_published("bireal_resnet18", arrays)[1],
        load_published("bireal_resnet18", shared)[1],
    )
    assert all(map(np.array_equal, jax.tree.leaves(ours), jax.tree.leaves(same)))
    for missing in ("fc.bias", "layer2.0.downsample.1.weight", "layer3.1.bn1.weight"):
        left = {
            name: array for name, array in arrays.items() if name != f"state.{missing}"
        }
        with pytest.raises(UserError, match=f"the published weights lack {missing}"):
            load_published("bireal_resnet18", left)


def test_a_kernel_of_another_size_is_named(reference):
    arrays = dict(np.load(reference / "schemes" / "bireal_resnet18.npz"))
    arrays["state.layer1.0.binary_conv.weights"] = np.zeros((145, 1), np.float32)
    message = (
        r"layer1\.0\.binary_conv\.weights has 145 numbers, no kernels of 4 channels"
    )
    with pytest.raises(UserError, match=message):
        load_published("bireal_resnet18", arrays)


def test_the_first_stage_has_float_kernels(reference):
    arrays = dict(np.load(reference / "schemes" / "reactnet_resnet18.npz"))
    model, variables = load_published("reactnet_resnet18_step1", arrays)
    assert model.scheme.stage == "activations"
    unit = variables["params"]["stage1_block0"]["unit0"]
    assert set(unit["conv"]) == {"kernel", "shift"}
    assert np.array_equal(
        unit["conv"]["kernel"].transpose(3, 2, 0, 1),
        arrays["state.layer2.0.binary_conv.weight"],
    )
