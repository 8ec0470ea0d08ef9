"""Whole packed networks in NumPy, made of the functions in docs/packed.md.

Nothing here comes from the package. Activations are float32 (N, H, W, C).
"""

import contextlib
import pathlib
from collections.abc import Mapping
from types import SimpleNamespace

import numpy as np
from documents import ROOT, blocks


def logits_of_document(folder: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """(normalised images, logits) by the lines of docs/packed.md.

    folder: it has digits.bnas, of the scheme `xnor`, and images.npy.
    """
    document = ROOT / "docs" / "packed.md"
    (lines,) = [block.text for block in blocks(document) if "def read(" in block.text]
    names: dict = {}
    with contextlib.chdir(folder):
        exec(lines, names)
    found = SimpleNamespace(**names)

    # The network that the settings name, and the classifier.
    network, arrays = found.header["settings"]["network"], found.arrays
    build = {"cells": _Cells, "resnet18": _ResNet18}[network["name"]]
    images = found.images.astype(np.float32)
    pooled = build(network, arrays, found)(images).mean((1, 2))  # (N, C)
    weights, bias = (arrays[f"params/classifier/{of}"] for of in ("kernel", "bias"))
    return images, pooled @ weights + bias


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


class _Network:
    """The layers that both networks have.

    layers: the document's functions.
    """

    def __init__(self, network: Mapping, arrays: Mapping, layers: SimpleNamespace):
        self.network, self.arrays, self.layers = network, arrays, layers

    def bn(self, name: str, x):
        return self.layers.bn(self.arrays, name, x)

    def float_conv(self, name: str, x, **moves):
        return self.layers.conv(x, self.arrays[f"params/{name}/kernel"], **moves)

    def unit(self, name: str, x, **moves):
        """BN, sign and convolution."""
        normal = self.bn(f"{name}/bn", x)
        return self.layers.binary(self.arrays, f"{name}/conv", normal, **moves)


class _Cells(_Network):
    """Cells of the form `cifar`, whose reductions have the skip `binary_bn`."""

    def __call__(self, images):
        count = self.network["num_cells"]
        x = relu(self.float_conv("stem/conv", self.bn("stem/bn", images)))
        before, previous, halved = x, x, False
        for index in range(count):
            reduction = index in (count // 3, 2 * count // 3)
            output = self.cell(index, before, previous, reduction, halved)
            before, previous, halved = previous, output, reduction
        return previous

    def cell(self, index: int, before, previous, reduction: bool, halved: bool):
        """halved: whether `before` has twice the size of `previous`."""
        name = f"cell{index}"
        first = self.unit(f"{name}/preprocess/input0", before, stride=1 + halved)
        second = self.unit(f"{name}/preprocess/input1", previous)
        states = [relu(first), relu(second)]

        # The nodes: each adds up two edges.
        nodes = self.network["genotype"]["reduce" if reduction else "normal"]
        for node, edges in enumerate(nodes):
            total = np.zeros_like(states[0][:, :: 1 + reduction, :: 1 + reduction])
            for number, (kind, source) in enumerate(edges, 2 * node):
                stride = 2 if reduction and source < 2 else 1
                x = states[source]
                total = total + self.edge(kind, f"{name}/layer{number}", x, stride)
            states.append(total)
        output = np.concatenate(states[2:], axis=-1)

        # The inter-cell skip.
        if index == 0 or not self.network["skip"]:
            return output
        if reduction:
            skip = f"{name}/skip/reduction"
            previous = self.unit(skip, previous, stride=2, padding=0)
            previous = self.bn(f"{skip}/bn_after", previous)
        return output + previous

    def edge(self, kind: str, name: str, x, stride: int):
        taps = self.layers.taps
        if kind == "none":
            return 0
        if kind == "max_pool_3x3":
            return np.max(list(taps(x, 3, stride=stride, fill=-np.inf)), axis=0)
        if kind == "avg_pool_3x3":
            inside = sum(taps(np.ones_like(x), 3, stride=stride))
            return sum(taps(x, 3, stride=stride)) / inside
        dilation = 2 if "dil" in kind else 1
        return relu(self.unit(name, x, stride=stride, dilation=dilation))


class _ResNet18(_Network):
    """ResNet18 for CIFAR, with XNOR-Net's blocks and float shortcuts."""

    def __call__(self, images):
        x = relu(self.bn("stem/bn", self.float_conv("stem/conv", images)))
        for stage, count in enumerate(self.network["blocks"]):
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                x = self.block(f"stage{stage}_block{block}", x, stride)
        return x

    def block(self, name: str, x, stride: int):
        y = relu(self.unit(f"{name}/unit0", x, stride=stride))
        y = self.unit(f"{name}/unit1", y)
        if stride > 1:
            x = self.float_conv(f"{name}/shortcut/conv", x, stride=stride)
            x = self.bn(f"{name}/shortcut/bn", x)
        return x + y
