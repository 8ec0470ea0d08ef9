"""Training recipes: how each paper, or its code, trains its networks.

`RECIPES` is the one table of them, see docs/recipes.md.

A recipe is a function without arguments that returns values of settings, as they are
written in a config: `num_epochs`, `batch_size`, `optimizer`, and `first_weights` where
they are not PyTorch's. Settings of `optimizer` that it leaves out have the defaults of
`OptimizerSettings`; those of the preset and the convention are not read then.

How sure a value is: [C] in published code, [P] in a paper, [R] reported of the paper,
whose text was not checked, [D] a default chosen here.
"""

from collections.abc import Callable
from typing import Any

NO_RECIPE = "none"

# The settings that come from a recipe, and not from a preset or a convention.
# `bn_examples` is among them, as batch norm sees the recipe's batch.
SETTINGS = ("num_epochs", "batch_size", "bn_examples", "optimizer", "first_weights")


def bnas() -> dict[str, Any]:
    """BNAS on CIFAR-10 (section 5.1): one-cycle from 4e-4 to 5e-2 and back [P].

    Drop-path [C] acts in networks of cells alone. The values of its code, which differ,
    are the `release` convention of configs/train.py.
    """
    return {
        "num_epochs": 600,
        "batch_size": 256,
        "optimizer": {
            "schedule": "one_cycle",
            "learning_rate": 0.05,
            "low_learning_rate": 4e-4,
            "min_learning_rate": 4e-4,
            "tail": 0.1,
            "momentum": 0.9,
            "weight_decay": 3e-6,
            "drop_path": 0.2,
        },
    }


def bnas_imagenet() -> dict[str, Any]:
    """BNAS on ImageNet (section 5.1): a cosine to 1e-5, restarted every 50 epochs [P].

    Label smoothing is that of its code [C].
    """
    return {
        "num_epochs": 250,
        "batch_size": 600,
        "optimizer": {
            "schedule": "cosine_restarts",
            "learning_rate": 0.1,
            "min_learning_rate": 1e-5,
            "cycle_epochs": 50,
            "momentum": 0.9,
            "weight_decay": 3e-5,
            "label_smoothing": 0.1,
        },
    }


def darts() -> dict[str, Any]:
    """DARTS's final network on CIFAR-10 [C].

    Its printed 97.2 % also has `dataset.cutout=16` and `network.auxiliary=True`.
    """
    return {
        "num_epochs": 600,
        "batch_size": 96,
        "optimizer": {
            "schedule": "cosine",
            "schedule_by": "epoch",
            "learning_rate": 0.025,
            "momentum": 0.9,
            "weight_decay": 3e-4,
            "clip_norm": 5.0,
            "drop_path": 0.2,
            "auxiliary_weight": 0.4,
        },
    }


def kuangliu() -> dict[str, Any]:
    """Hand-crafted networks on CIFAR-10, as kuangliu/pytorch-cifar [C].

    The BNAS paper does not say how it trains these.
    """
    return {
        "num_epochs": 200,
        "batch_size": 128,
        "optimizer": {
            "schedule": "cosine",
            "schedule_by": "epoch",
            "learning_rate": 0.1,
            "momentum": 0.9,
            "weight_decay": 5e-4,
        },
    }


def bireal() -> dict[str, Any]:
    """Bi-Real Net on ImageNet from scratch, as its authors' PyTorch code [C].

    The scheduler is stepped before each epoch: the first one has 1e-3 (1 - 1/256), the
    last 0. The paper's own training, with code in Caffe, begins with a float network
    instead: SGD, .01 times .1 at 10 and 15 of 20 epochs.
    """
    return {
        "num_epochs": 256,
        "batch_size": 512,
        "first_weights": "bireal",
        "optimizer": {
            "name": "adam",
            "schedule": "linear",
            "schedule_by": "epoch",
            "first_epoch": 1,
            "learning_rate": 1e-3,
            "label_smoothing": 0.1,
        },
    }


def reactnet() -> dict[str, Any]:
    """ReActNet's ResNet18 on ImageNet, the second of its two steps [C].

    All is binary, without weight decay. Its code has only the loss of distillation from
    a float ResNet34: `config.teacher`. Without a teacher it is cross-entropy, with the
    label smoothing of Bi-Real's code by the same author [D].
    """
    return {
        "num_epochs": 128,
        "batch_size": 512,
        "first_weights": "bireal",
        "optimizer": {
            "name": "adam",
            "schedule": "linear",
            "schedule_by": "epoch",
            "first_epoch": 1,
            "learning_rate": 2.5e-3,
            "label_smoothing": 0.1,
        },
    }


def reactnet_step1() -> dict[str, Any]:
    """ReActNet's first step, for `scheme.stage=activations` [C].

    Its weight decay does not act on BN, classifier and PReLU.
    """
    values = reactnet()
    del values["first_weights"]
    values["optimizer"] |= {"weight_decay": 1e-5, "decayed": "kernels"}
    return values


def nin() -> dict[str, Any]:
    """The binary NiN on CIFAR-10, as jiecaoyu/XNOR-Net-PyTorch [C].

    Its weight decay reaches all parameters. Its loop counts the epochs from 1 to 319,
    so that each decay comes one epoch earlier there, and one epoch is not run.
    """
    return {
        "num_epochs": 320,
        "batch_size": 128,
        "first_weights": "nin",
        "optimizer": {
            "name": "adam",
            "schedule": "steps",
            "learning_rate": 0.01,
            "decay_epochs": (120, 200, 240, 280),
            "decay_factor": 0.1,
            "weight_decay": 1e-5,
        },
    }


def cbcn() -> dict[str, Any]:
    """CBCN on CIFAR-10, its authors' code without the center loss [C]."""
    return {
        "num_epochs": 200,
        "batch_size": 128,
        "optimizer": {
            "schedule": "steps",
            "learning_rate": 0.1,
            "decay_epochs": (60, 120, 160),
            "decay_factor": 0.2,
            "momentum": 0.9,
            "nesterov": True,
            "weight_decay": 5e-4,
        },
    }


def pcnn() -> dict[str, Any]:
    """PCNN on CIFAR-10: 200 epochs [P].

    No training code is published; the rest is CBCN's, of the same group [D]. The paper
    starts from a network that was trained before, see `--init`.
    """
    return cbcn()


def xnor_pp() -> dict[str, Any]:
    """XNOR-Net++ on ImageNet: Adam, times .1 in steps, about 80 epochs [R].

    The epochs of the steps, and the batch size, are defaults chosen here [D].
    """
    return {
        "num_epochs": 80,
        "batch_size": 256,
        "optimizer": {
            "name": "adam",
            "schedule": "steps",
            "learning_rate": 1e-3,
            "decay_epochs": (20, 40, 60),
            "decay_factor": 0.1,
            "weight_decay": 1e-5,
        },
    }


RECIPES: dict[str, Callable[[], dict[str, Any]]] = {
    "bnas": bnas,
    "bnas_imagenet": bnas_imagenet,
    "darts": darts,
    "kuangliu": kuangliu,
    "bireal": bireal,
    "reactnet": reactnet,
    "reactnet_step1": reactnet_step1,
    "nin": nin,
    "cbcn": cbcn,
    "pcnn": pcnn,
    "xnor_pp": xnor_pp,
}
