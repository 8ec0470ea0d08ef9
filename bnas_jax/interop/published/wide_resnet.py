"""Loads the float wide ResNets of two repositories.

These are github.com/xternalz/WideResNet-pytorch and
github.com/meliketoy/wide-resnet.pytorch.
"""

from collections.abc import Mapping

import flax.linen as nn
import numpy as np

from bnas_jax.baselines.wide_resnet import WideResNet
from bnas_jax.core.schemes import Float
from bnas_jax.interop.published.torch_arrays import (
    array_of,
    blocks_of,
    by_module,
    states,
    variables_of,
)

# Rules for `torch_arrays.by_module`: our modules -> theirs. Our stages are numbered
# from 0, theirs from 1. The rules that both repositories share:
INSIDE = (
    (r"^stem$", "conv1"),
    (r"^bn$", "bn1"),
    # conv1 comes first, because conv0 would become conv1 and then conv2.
    (r"/conv1$", "/conv2"),
    (r"/conv0$", "/conv1"),
    (r"input/bn$", "bn1"),
    (r"middle/bn$", "bn2"),
)
XTERNALZ = (
    (r"^stage0_block(\d+)", r"block1/layer/\1"),
    (r"^stage1_block(\d+)", r"block2/layer/\1"),
    (r"^stage2_block(\d+)", r"block3/layer/\1"),
    *INSIDE,
    (r"shortcut$", "convShortcut"),
    (r"^classifier$", "fc"),
)
MELIKETOY = (
    (r"^stage0_block(\d+)", r"layer1/\1"),
    (r"^stage1_block(\d+)", r"layer2/\1"),
    (r"^stage2_block(\d+)", r"layer3/\1"),
    *INSIDE,
    (r"shortcut$", "shortcut/0"),
    (r"^classifier$", "linear"),
)


def load(name: str, arrays: Mapping[str, np.ndarray]) -> tuple[nn.Module, dict]:
    """(model, variables) of a wide ResNet, see `load_published`.

    The names of its arrays tell which of the two repositories it is from.
    """
    del name
    arrays = states(arrays)

    # xternalz calls the classifier `fc`.
    meliketoy = "fc.weight" not in arrays
    rules, stage, classifier = XTERNALZ, "block{}.layer", "fc.weight"
    if meliketoy:
        rules, stage, classifier = MELIKETOY, "layer{}", "linear.weight"

    # Read the sizes from the shapes of the arrays; kernels are OIHW.
    blocks = blocks_of(arrays, stage.format(r"(\d)") + r"\.(\d+)\.")
    firsts = []
    for number in range(1, len(blocks) + 1):
        firsts.append(f"{stage.format(number)}.0.conv1.weight")
    model = WideResNet(
        stem=len(array_of(arrays, "conv1.weight")),
        blocks=blocks,
        widths=tuple(len(array_of(arrays, first)) for first in firsts),
        num_classes=len(array_of(arrays, classifier)),
        scheme=Float(),
        meliketoy=meliketoy,
    )
    return model, variables_of(model, arrays, by_module(rules), image_shape=(32, 32, 3))


LOADERS = {"wrn22": load, "wrn40": load}
