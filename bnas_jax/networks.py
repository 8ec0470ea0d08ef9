"""`NETWORKS`: the table of the networks that can be trained.

Each entry is a subclass of `core.networks.NetworkSettings`: a frozen dataclass whose
fields are the settings `config.network.*` of the network, and whose method `build`
makes the Flax module. A new network is a new entry.
"""

from bnas_jax.baselines.densenet import DenseNet121
from bnas_jax.baselines.nin import NinSettings
from bnas_jax.baselines.reactnet_mobilenet import ReActNetMobileNet
from bnas_jax.baselines.resnet import ImageNetResNet18, ResNet18, ResNet34
from bnas_jax.baselines.resnext import ResNeXt29
from bnas_jax.baselines.senet import SENet18
from bnas_jax.baselines.small_cnn import SmallCnnSettings
from bnas_jax.baselines.wide_resnet import Wrn22, Wrn40
from bnas_jax.core.networks import Cells, NetworkSettings

NETWORKS: dict[str, type[NetworkSettings]] = {
    # Networks of searched cells: of the paper, and of other search algorithms.
    "cells": Cells,
    # Hand-crafted networks for CIFAR (Table 6).
    "resnet18": ResNet18,
    "resnet34": ResNet34,
    "senet18": SENet18,
    "densenet": DenseNet121,
    "nin": NinSettings,
    "wrn40": Wrn40,
    "wrn22": Wrn22,
    "resnext29": ResNeXt29,
    # A network of layers of one type (Tables 1 and 12).
    "small_cnn": SmallCnnSettings,
    # Hand-crafted networks for ImageNet. ResNet18 is in Table 7; ReActNet's MobileNet
    # is not in the paper.
    "imagenet_resnet18": ImageNetResNet18,
    "reactnet_mobilenet": ReActNetMobileNet,
}
