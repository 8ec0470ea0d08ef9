"""The rows of the paper's tables, for reproduce.py.

Each row is a training; some rows first search the cell. The configs are those of
train.py, search.py, ablations.py, baselines.py and paper.py. At the scale `smoke` the
networks are tiny, and trained on the embedded digits.
"""

import functools
from typing import Any

from ml_collections import ConfigDict

from bnas_jax.settings import template
from bnas_jax.study import Row
from configs import ablations, baselines, paper, search, train
from configs.ablations import SEPARABLE

# At the scale `smoke`: task -> the number of epochs.
EPOCHS = {"train": 5, "search": 2}
# The number of cells of all networks, and the channels of each size of Table 5.
SMOKE_CELLS = 3
SMOKE_CHANNELS = {"mini": 2, "a": 4, "b": 6, "c": 8, "d": 6, "e": 7, "f": 8, "g": 10}
# Layer types with depthwise kernels.
DEPTHWISE = (*SEPARABLE, "mobinet_3x3", "mobinet_k4_3x3")


def bnas(size: str, scale: str, *, ablation: str = "") -> Row:
    """BNAS of a size of Table 5, with a released cell.

    ablation: an ablation of ablations.py that also has a released cell.
    """
    train_config = functools.partial(
        _network, size=size, scale=scale, ablation=ablation
    )
    return Row(_bnas_name(size, ablation), train=train_config, seeds=1)


def searched(
    size: str, scale: str, *, ablation: str = "", centred: bool = False
) -> Row:
    """BNAS of a size of Table 5, with the cell of a search that all sizes share.

    ablation: the ablation of the search.
    centred: see `published`.
    """
    # The names of the row and of its search.
    name = _bnas_name(size, ablation or "searched")
    shared = f"search {ablation}".strip()
    if ablation == "separable":
        name, shared = _centred_name(name, centred), _centred_name(shared, centred)

    variant = f"search_{ablation}_cifar10".replace("__", "_")
    search_config = functools.partial(
        _search, variant=variant, scale=scale, centred=centred
    )
    train_config = functools.partial(
        _network, size=size, scale=scale, ablation=ablation, centred=centred
    )
    return Row(
        name,
        train=train_config,
        search=search_config,
        searched_as=shared,
        seeds=1,
    )


def darts(scale: str, *, change: str = "", plain: bool = False) -> Row:
    """DARTS in float, searched and trained by its own recipe.

    change: a change of its search, `zeroise` or `diversity`.
    plain: whether cutout and the auxiliary classifier are left out, as they always are
        at the scale `smoke`.
    """
    # The names of the row and of its search.
    name = f"DARTS {change}".strip()
    shared = f"search {name}"
    if plain:
        name += " without cutout"

    ablation = f"float_{change}".strip("_")
    variant = f"search_{ablation}_cifar10_darts"
    return Row(
        name,
        train=functools.partial(_darts, scale=scale, plain=plain),
        search=functools.partial(_search, variant=variant, scale=scale),
        searched_as=shared,
        seeds=1,
    )


def published(name: str, genotype: str, scale: str, *, centred: bool = True) -> Row:
    """A cell that was published for float networks, binarized (Figure 2).

    centred: whether depthwise kernels are centred, as in published code of XNOR-Net.
    """
    train_config = functools.partial(
        _published, genotype=genotype, scale=scale, centred=centred
    )
    return Row(_centred_name(name, centred), train=train_config, seeds=1)


def hand_crafted(name: str, network: str, scheme: str, scale: str, **sizes: Any) -> Row:
    """A network of baselines.py with a scheme.

    sizes: settings of the network at the paper's scale.
    """
    train_config = functools.partial(
        _hand_crafted, network=network, scheme=scheme, scale=scale, sizes=sizes
    )
    return Row(name, train=train_config, seeds=1)


def three_layers(
    layer_type: str, scheme: str, scale: str, *, centred: bool = True
) -> Row:
    """The network of Tables 1 and 12: three layers of a type and three dense layers.

    centred: see `published`.
    """
    domain = {"float": "float", "xnor": "binary"}[scheme]
    train_config = functools.partial(
        _three_layers,
        layer_type=layer_type,
        scheme=scheme,
        scale=scale,
        centred=centred,
    )
    name = _centred_name(f"{layer_type} {domain}", centred)
    return Row(name, train=train_config, seeds=1)


def _centred_name(name: str, centred: bool) -> str:
    """The name of a row, marked if depthwise kernels are not centred."""
    if centred:
        return name
    return f"{name} uncentred"


def _bnas_name(size: str, ablation: str) -> str:
    """The name of a row, such as BNAS-A no Zeroise."""
    words = ablation.replace("_", " ").replace("zeroise", "Zeroise")
    return f"BNAS-{size.capitalize()} {words}".strip()


# The configs of the rows, as functions of a seed.


def _network(
    seed: int, *, size: str, scale: str, ablation: str = "", centred: bool = False
) -> ConfigDict:
    """The training of a network of a size of Table 5."""
    del seed  # the study sets it
    if ablation:
        config = ablations.get_config(f"train_{ablation}_{size}")
    else:
        config = train.get_config(size)
    if centred:
        config.scheme.depthwise_center = True
    return _at(scale, config, size=size)


def _search(
    seed: int, *, variant: str, scale: str, centred: bool = False
) -> ConfigDict:
    """The search of a variant of ablations.py, or of search.py."""
    del seed
    # Without an ablation, the search is a preset of search.py.
    if variant == "search_cifar10":
        config = search.get_config("cifar10")
    else:
        config = ablations.get_config(variant)
    if centred:
        config.scheme.depthwise_center = True
    return _at(scale, config)


def _darts(seed: int, *, scale: str, plain: bool) -> ConfigDict:
    """The training of a cell of DARTS in float."""
    config = _network(seed, size="a", scale=scale, ablation="float")
    config.recipe = "darts"
    # The published accuracy of DARTS also needs these, see `recipes.darts`.
    if scale == "paper" and not plain:
        config.dataset.cutout = 16
        config.network.auxiliary = True
    return config


def _published(seed: int, *, genotype: str, scale: str, centred: bool) -> ConfigDict:
    """The training of a published cell, binarized."""
    del seed
    config = paper.get_config(f"figure2_{genotype}")
    config.scheme.depthwise_center = centred
    return _at(scale, config, size="a")


def _hand_crafted(
    seed: int, *, network: str, scheme: str, scale: str, sizes: dict[str, Any]
) -> ConfigDict:
    """The training of a network of baselines.py."""
    del seed
    if scale == "paper":
        config = baselines.get_config(network)
        config.network.update(sizes)
    else:
        # Take the narrow form for the digits.
        config = baselines.get_config(f"digits_{network.removeprefix('imagenet_')}")
        config.num_epochs = EPOCHS["train"]
    template.choose(config, "scheme", scheme)
    return config


def _three_layers(
    seed: int, *, layer_type: str, scheme: str, scale: str, centred: bool
) -> ConfigDict:
    """The training of the network of Tables 1 and 12."""
    del seed
    table = "table12"
    if layer_type in paper.TABLE_1:
        table = "table1"
    config = paper.get_config(f"{table}_{layer_type}")
    # Only for layer types with depthwise kernels: on the digits, which have a single
    # channel, the first layer of any other type would be centred to zero, too.
    config.scheme.depthwise_center = centred and layer_type in DEPTHWISE
    template.choose(config, "scheme", scheme)
    return _at(scale, config)


def _at(scale: str, config: ConfigDict, *, size: str | None = None) -> ConfigDict:
    """A config of the paper's scale, changed to the given scale.

    size: the size of Table 5 of a network of cells, else None.
    """
    if scale == "paper":
        return config

    # Take the digits.
    if config.task == "search":
        search.digits(config)
        config.network.update({"num_cells": SMOKE_CELLS, "channels": 2})
    else:
        train.digits(config)

    # Make the network tiny.
    if size is not None:
        config.network.num_cells = SMOKE_CELLS
        config.network.channels = SMOKE_CHANNELS[size]
        # An image of 8 pixels cannot be halved as often as ImageNet's stem does.
        if config.network.form == "imagenet":
            config.network.form = "cifar"
    config.num_epochs = EPOCHS[config.task]
    return config
