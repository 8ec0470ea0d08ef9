"""Loads the float networks of github.com/kuangliu/pytorch-cifar.

These are ResNets, SENet18, ResNeXt29 and DenseNets for CIFAR.
"""

from collections.abc import Mapping, Sequence

import flax.linen as nn
import numpy as np

from bnas_jax.baselines.densenet import DenseNet
from bnas_jax.baselines.resnet import ResNet
from bnas_jax.baselines.resnext import ResNeXt
from bnas_jax.baselines.senet import SENet
from bnas_jax.core.schemes import Float
from bnas_jax.interop.published.torch_arrays import (
    array_of,
    blocks_of,
    by_module,
    states,
    variables_of,
)

Rules = Sequence[tuple[str, str]]

IMAGE_SHAPE = (32, 32, 3)
# The pattern of the names of blocks, for `torch_arrays.blocks_of`.
STAGES = r"layer(\d)\.(\d+)\."

# Rules for `torch_arrays.by_module`: our modules -> theirs. Our stages are numbered
# from 0, theirs from 1.
OUTSIDE = (
    (r"^stem/conv$", "conv1"),
    (r"^stem/bn$", "bn1"),
    (r"^stem$", "conv1"),
    (r"^classifier$", "linear"),
    (r"^stage0_block(\d+)", r"layer1/\1"),
    (r"^stage1_block(\d+)", r"layer2/\1"),
    (r"^stage2_block(\d+)", r"layer3/\1"),
    (r"^stage3_block(\d+)", r"layer4/\1"),
)
# ResNets and ResNeXts.
POST_ACTIVATION = (
    *OUTSIDE,
    (r"unit0/(output_)?(conv|bn)$", r"\g<2>1"),
    (r"unit1/(output_)?(conv|bn)$", r"\g<2>2"),
    (r"unit2/(output_)?(conv|bn)$", r"\g<2>3"),
    (r"shortcut/conv$", "shortcut/0"),
    (r"shortcut/bn$", "shortcut/1"),
)
# SENets.
PRE_ACTIVATION = (
    *OUTSIDE,
    # conv1 comes first, because conv0 would become conv1 and then conv2.
    (r"/conv1$", "/conv2"),
    (r"/conv0$", "/conv1"),
    (r"input/bn$", "bn1"),
    (r"middle/bn$", "bn2"),
    (r"shortcut$", "shortcut/0"),
    (r"gate/squeeze$", "fc1"),
    (r"gate/excite$", "fc2"),
)
# DenseNets, whose layers are pre-activation layers.
DENSE = (
    (r"^stage0_layer(\d+)", r"dense1/\1"),
    (r"^stage1_layer(\d+)", r"dense2/\1"),
    (r"^stage2_layer(\d+)", r"dense3/\1"),
    (r"^stage3_layer(\d+)", r"dense4/\1"),
    (r"^transition0/", "trans1/"),
    (r"^transition1/", "trans2/"),
    (r"^transition2/", "trans3/"),
    (r"^(trans\d)/input/bn$", r"\1/bn"),
    *PRE_ACTIVATION,
)


def load_resnet(name: str, arrays: Mapping[str, np.ndarray]) -> tuple[nn.Module, dict]:
    """(model, variables) of `ResNet18` or `ResNet34`."""
    del name
    arrays = states(arrays)
    blocks = blocks_of(arrays, STAGES)
    model = ResNet(
        blocks=blocks,
        widths=widths(arrays, blocks),
        num_classes=classes(arrays),
        scheme=Float(),
    )
    return model, _variables(model, arrays, POST_ACTIVATION)


def load_senet(name: str, arrays: Mapping[str, np.ndarray]) -> tuple[nn.Module, dict]:
    """(model, variables) of `SENet18`."""
    del name
    arrays = states(arrays)
    blocks = blocks_of(arrays, STAGES)
    # The kernel of the squeeze is (hidden, width, 1, 1).
    hidden, width = array_of(arrays, "layer1.0.fc1.weight").shape[:2]
    model = SENet(
        blocks=blocks,
        widths=widths(arrays, blocks),
        gate=width // hidden,
        num_classes=classes(arrays),
        scheme=Float(),
    )
    return model, _variables(model, arrays, PRE_ACTIVATION)


def load_resnext(name: str, arrays: Mapping[str, np.ndarray]) -> tuple[nn.Module, dict]:
    """(model, variables) of `ResNeXt29_2x64d` or one of another width."""
    del name
    arrays = states(arrays)
    # The kernel of the grouped convolution is (width, width / groups, 3, 3).
    width, group_width = array_of(arrays, "layer1.0.conv2.weight").shape[:2]
    model = ResNeXt(
        stem=len(array_of(arrays, "conv1.weight")),
        groups=width // group_width,
        group_width=group_width,
        blocks=blocks_of(arrays, STAGES),
        num_classes=classes(arrays),
        scheme=Float(),
    )
    return model, _variables(model, arrays, POST_ACTIVATION)


def load_densenet(
    name: str, arrays: Mapping[str, np.ndarray]
) -> tuple[nn.Module, dict]:
    """(model, variables) of `DenseNet121`, `densenet_cifar` or one of another size."""
    del name
    arrays = states(arrays)
    # The outputs of a layer's last convolution are the channels that it adds.
    model = DenseNet(
        growth=len(array_of(arrays, "dense1.0.conv2.weight")),
        blocks=blocks_of(arrays, r"dense(\d)\.(\d+)\."),
        num_classes=classes(arrays),
        scheme=Float(),
    )
    return model, _variables(model, arrays, DENSE)


def _variables(
    model: nn.Module, arrays: Mapping[str, np.ndarray], rules: Rules
) -> dict:
    """The variables of a model. rules: for `torch_arrays.by_module`."""
    return variables_of(model, arrays, by_module(rules), image_shape=IMAGE_SHAPE)


def widths(
    arrays: Mapping[str, np.ndarray], blocks: tuple[int, ...]
) -> tuple[int, ...]:
    """The number of channels of each stage. blocks: the blocks of each stage."""
    firsts = [f"layer{stage + 1}.0.conv1.weight" for stage in range(len(blocks))]
    return tuple(len(array_of(arrays, first)) for first in firsts)


def classes(arrays: Mapping[str, np.ndarray]) -> int:
    """The number of classes, read from the classifier."""
    return len(array_of(arrays, "linear.weight"))


LOADERS = {
    "kuangliu_resnet18": load_resnet,
    "kuangliu_resnet34": load_resnet,
    "kuangliu_senet18": load_senet,
    "kuangliu_resnext29": load_resnext,
    "kuangliu_densenet": load_densenet,
    "kuangliu_densenet121": load_densenet,
}
