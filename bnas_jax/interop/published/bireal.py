"""Loads Bi-Real Net and ReActNet (github.com/liuzechun: Bi-Real-net and ReActNet).

Names: `bireal_resnet18`, `bireal_resnet34`, `reactnet_resnet18`, `reactnet_mobilenet`.
The names of ReActNet end in `_step1` for the first stage of its training, in which
weights are float.
"""

from collections.abc import Mapping

import flax.linen as nn
import numpy as np

from bnas_jax.baselines.reactnet_mobilenet import MobileNet
from bnas_jax.baselines.resnet import ResNet
from bnas_jax.core.errors import UserError
from bnas_jax.core.schemes import BiReal, ReActNet, Scheme
from bnas_jax.interop.published.torch_arrays import (
    BATCH_NORM,
    Path,
    array_of,
    states,
    variables_of,
)

# The path of our leaf within a module -> its name in their code.
Names = dict[str, str]


def batch_norm(ours: str, theirs: str) -> Names:
    """The `Names` of a batch norm. ours, theirs: the path of the module in both."""
    names = {}
    for leaf, name in BATCH_NORM.items():
        names[f"{ours}/{leaf}"] = f"{theirs}.{name}"
    return names


def rprelu(ours: str, *, moves: tuple[str, str], prelu: str) -> Names:
    """The `Names` of an RPReLU.

    moves, prelu: their modules with the two shifts, and with the slope.
    """
    before, after = moves
    return {
        f"{ours}/before": f"{before}.bias",
        f"{ours}/prelu/slope": f"{prelu}.weight",
        f"{ours}/after": f"{after}.bias",
    }


# The `Names` of a unit of a ResNet, and of a block of the MobileNet. `latent` are
# binary weights and `kernel` float weights; a network has one of the two.
BIREAL_UNIT = {
    "conv/latent": "binary_conv.weight",
    **batch_norm("bn", "bn1"),
    "shortcut/conv/kernel": "downsample.1.weight",
    **batch_norm("shortcut/bn", "downsample.2"),
}
REACTNET_UNIT = {
    **BIREAL_UNIT,
    "conv/kernel": "binary_conv.weight",
    "conv/shift": "move0.bias",
    **rprelu("rprelu", moves=("move1", "move2"), prelu="prelu"),
}
MOBILE_BLOCK = {
    # The 3x3 half.
    "conv3/latent": "binary_3x3.weight",
    "conv3/kernel": "binary_3x3.weight",
    "conv3/shift": "move11.bias",
    **batch_norm("bn3", "bn1"),
    **rprelu("rprelu3", moves=("move12", "move13"), prelu="prelu1"),
    # The 1x1 half.
    "conv1/latent": "binary_pw.weight",
    "conv1/kernel": "binary_pw.weight",
    "conv1/shift": "move21.bias",
    **batch_norm("bn1", "bn2"),
    **rprelu("rprelu1", moves=("move22", "move23"), prelu="prelu2"),
}
STEM = {"conv/kernel": "conv1.weight", **batch_norm("bn", "bn1")}
CLASSIFIER = {"kernel": "weight", "bias": "bias"}
# Any image shape will do: the shapes of the variables do not depend on it.
IMAGE_SHAPE = (32, 32, 3)

# Their binary convolution -> (the batch norm after it, which has as many channels, the
# size of the kernel).
BINARY_CONVS = {
    "binary_conv": ("bn1", 3),
    "binary_3x3": ("bn1", 3),
    "binary_pw": ("bn2", 1),
    "binary_pw_down1": ("bn2_1", 1),
    "binary_pw_down2": ("bn2_2", 1),
}


def load(name: str, arrays: Mapping[str, np.ndarray]) -> tuple[nn.Module, dict]:
    """One of these networks, with its authors' scheme; see `load_published`."""
    # Both networks use PyTorch's sign, which is 0 at 0.
    if name.startswith("bireal"):
        bireal = BiReal(weight_gradient="torch", sign_of_zero=0)
        return load_resnet(arrays, scheme=bireal, unit=BIREAL_UNIT)

    # In the first stage of ReActNet's training only activations are binary.
    stage = "activations" if name.endswith("_step1") else "all"
    scheme = ReActNet(sign_of_zero=0, stage=stage)
    if name.startswith("reactnet_mobilenet"):
        return load_mobilenet(arrays, scheme)
    return load_resnet(arrays, scheme=scheme, unit=REACTNET_UNIT)


# The names of the networks here.
NAMES = (
    "bireal_resnet18",
    "bireal_resnet34",
    "reactnet_resnet18",
    "reactnet_mobilenet",
)
LOADERS = {name: load for name in NAMES}


def load_resnet(
    arrays: Mapping[str, np.ndarray], scheme: Scheme, unit: Names
) -> tuple[nn.Module, dict]:
    """(model, variables) of a ResNet. Two of their units, `layerL.I`, are one block."""
    arrays = in_usual_shapes(arrays)

    # Read the sizes from the arrays. A unit is (stage, index).
    units = {tuple(name.split(".")[:2]) for name in arrays}
    blocks, widths = [], []
    for number in range(1, 5):
        stage = f"layer{number}"
        count = sum(stage == theirs for theirs, *_ in units)
        blocks.append(count // 2)
        scale = array_of(arrays, f"{stage}.0.bn1.weight")
        widths.append(len(scale))
    model = ResNet(
        blocks=tuple(blocks),
        widths=tuple(widths),
        num_classes=len(array_of(arrays, "fc.bias")),
        scheme=scheme,
        imagenet=True,
    )

    # The names of their arrays, by our path (collection, module, ..., leaf).
    def counterpart(path: Path) -> str:
        _, module, *inner = path
        if module == "classifier":
            return f"fc.{CLASSIFIER[inner[0]]}"
        if module == "stem":
            return STEM["/".join(inner)]
        # stageS_blockB/unitU; our stages count from 0 and theirs from 1.
        stage, block = module.removeprefix("stage").split("_block")
        number = inner[0].removeprefix("unit")
        index = 2 * int(block) + int(number)
        name = unit["/".join(inner[1:])]
        return f"layer{int(stage) + 1}.{index}.{name}"

    variables = variables_of(model, arrays, counterpart, image_shape=IMAGE_SHAPE)
    return model, variables


def load_mobilenet(
    arrays: Mapping[str, np.ndarray], scheme: Scheme
) -> tuple[nn.Module, dict]:
    """(model, variables) of ReActNet's MobileNet.

    `feature.0` is the stem, the other features are blocks.
    """
    arrays = with_one_pointwise(in_usual_shapes(arrays))

    # Read the sizes from the arrays.
    numbers = {name.split(".")[1] for name in arrays if name.startswith("feature.")}
    blocks = [f"feature.{number}" for number in range(1, len(numbers))]
    # The last BN of the stem and of each block has as many channels as its output.
    norms = ["feature.0.bn1", *(f"{block}.bn2" for block in blocks)]
    widths = [len(array_of(arrays, f"{norm}.weight")) for norm in norms]
    model = MobileNet(
        widths=tuple(widths),
        num_classes=len(array_of(arrays, "fc.bias")),
        scheme=scheme,
    )

    # The names of their arrays, by our path (collection, module, ..., leaf).
    def counterpart(path: Path) -> str:
        _, module, *inner = path
        if module == "classifier":
            return f"fc.{CLASSIFIER[inner[0]]}"
        if module == "stem":
            name = STEM["/".join(inner)]
            return f"feature.0.{name}"
        # blockB. Both codes number the blocks in order.
        index = int(module.removeprefix("block"))
        name = MOBILE_BLOCK["/".join(inner)]
        return f"{blocks[index]}.{name}"

    variables = variables_of(model, arrays, counterpart, image_shape=IMAGE_SHAPE)
    return model, variables


def in_usual_shapes(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays in PyTorch's usual shapes.

    Kernels `weights`, (co * ci * k * k, 1), become `weight`, (co, ci, k, k). Shifts
    (1, C, 1, 1) become (C,).
    """
    found = {}
    theirs = states(arrays)
    for name, value in theirs.items():
        # BLOCK.MODULE.LEAF
        place, _, leaf = name.rpartition(".")
        block, _, module = place.rpartition(".")

        # A shift.
        if module.startswith("move"):
            value = value.ravel()  # (channels,)

        # The shape of a flat kernel does not say how many channels it has, but that of
        # the BN after it does.
        if leaf == "weights" and module in BINARY_CONVS:
            bn, size = BINARY_CONVS[module]
            scale = array_of(theirs, f"{block}.{bn}.weight")
            channels = len(scale)
            if value.size % (channels * size * size):
                raise UserError(
                    f"{name} has {value.size} numbers, no kernels of {channels} "
                    "channels"
                )
            name = f"{place}.weight"
            value = value.reshape(channels, -1, size, size)  # OIHW
        found[name] = value
    return found


def with_one_pointwise(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays, with one 1x1 convolution and one batch norm in each block.

    A block that doubles its channels has two of each, which are concatenated.
    """
    found = dict(arrays)
    # The first of the two -> (the second, the name of both together).
    pairs = {
        "binary_pw_down1": ("binary_pw_down2", "binary_pw"),
        "bn2_1": ("bn2_2", "bn2"),
    }
    for name, first in arrays.items():
        # feature.INDEX.MODULE.LEAF. Skip scalars, such as num_batches_tracked.
        if name.count(".") < 3 or first.ndim == 0:
            continue
        block, module, leaf = name.rsplit(".", 2)
        if module not in pairs:
            continue

        # Concatenate both along the output channels.
        second, both = pairs[module]
        other = array_of(arrays, f"{block}.{second}.{leaf}")
        joined = f"{block}.{both}.{leaf}"
        found[joined] = np.concatenate([first, other])
    return found
