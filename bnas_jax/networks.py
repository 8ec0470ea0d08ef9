"""The networks that can be trained: `NETWORKS`, the one table of them. A new network is a new entry.

An entry is a `core.networks.NetworkSettings`: a frozen dataclass whose fields are its settings, `config.network.*`, and
which builds the module.
"""

from bnas_jax.baselines.resnet import ImageNetResNet18, ResNet18, ResNet34
from bnas_jax.core.networks import Cells, NetworkSettings

NETWORKS: dict[str, type[NetworkSettings]] = {
    "cells": Cells,
    "resnet18": ResNet18,
    "resnet34": ResNet34,
    "imagenet_resnet18": ImageNetResNet18,
}
