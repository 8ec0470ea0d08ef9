"""Studies on the embedded digits, at a small scale.

Their results are in docs/results.md.

    python -m bnas_jax study --study=configs/studies.py:VARIANT --workdir=DIR

| variant | rows | compared with |
|---|---|---|
| digits | the preset `train:digits`, 40 epochs | - |
| schemes_cell | every scheme, and float, with five BNAS cells | xnor |
| schemes_resnet18 | every scheme, and float, with a narrow ResNet18 | xnor |
| layers | layer types of Tables 1 and 12 in `small_cnn` | binary convolutions |
| searchers | the cells of each searcher, trained from scratch | 20 random cells |
| objective | BNAS with another gamma, without Eq. 5, without Zeroise | BNAS |

`layers` has binary and float layers, and binary layers with centred depthwise kernels.
`objective` has gamma 3, no diversity term (Eq. 5), and no Zeroise.

In all studies except `digits`, all rows are trained alike, with the recipe of the
digits presets for 20 epochs, so that they differ in one respect. There are five seeds
(`layers`: three; the random cells: twenty), from 0 on. The seed determines the first
weights, the order of images, random cells, and the halves of a search. Finished runs
are kept, so that the same command continues an interrupted study.
"""

import functools
from typing import Any

import jax
from ml_collections import ConfigDict

from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import TABLE_3
from bnas_jax.core.schemes import SCHEMES
from bnas_jax.search.random import genotype_of, sample
from bnas_jax.settings import template
from bnas_jax.study import Row, Study
from configs import baselines, search, train

SEARCHERS = ("bnas", "darts", "snas", "gdas", "random", "random_trained")
RANDOM_CELLS = 20
LAYER_TYPES = ("bin_conv_3x3", "bin_dil_conv_3x3", "sep_conv_3x3", "mobinet_3x3")
# The epochs of all trainings except those of `digits`, half as many as in the presets.
EPOCHS = 20


def get_study(variant: str) -> Study:
    """The study of a variant, a key of `STUDIES`."""
    if variant not in STUDIES:
        raise UserError(f"no study {variant!r}: write one of {', '.join(STUDIES)}")
    return STUDIES[variant]()


def digits() -> Study:
    """The training of the quickstart, but with the paper's cell."""
    row = Row("latest_cell_zeroise", train=_preset)
    return Study("The preset train:digits", (row,))


def schemes_cell() -> Study:
    """Every scheme with the network of the digits preset."""
    rows = []
    for scheme in SCHEMES:
        train_config = functools.partial(_cells, scheme=scheme)
        rows.append(Row(scheme, train=train_config))
    title = "Every scheme on a network of five BNAS cells"
    return Study(title, tuple(rows), baseline="xnor")


def schemes_resnet18() -> Study:
    """Every scheme with the narrow ResNet18."""
    rows = []
    for scheme in SCHEMES:
        train_config = functools.partial(
            _baseline, name="digits_resnet18", scheme=scheme
        )
        rows.append(Row(scheme, train=train_config))
    return Study("Every scheme on a narrow ResNet18", tuple(rows), baseline="xnor")


def layers() -> Study:
    """Tables 1 and 12 (section 4.1.2, appendix E.1).

    The network has three layers of one type, then three dense layers.
    """
    rows = []
    for layer_type in LAYER_TYPES:
        for scheme in ("xnor", "float"):
            rows.append(_layer_row(layer_type, scheme))

    # Centring makes depthwise kernels zero (docs/schemes.md).
    rows.append(_layer_row("sep_conv_3x3", "xnor", depthwise_center=True))
    rows.append(_layer_row("mobinet_3x3", "xnor", depthwise_center=True))
    title = "Layer types in a network of three"
    return Study(title, tuple(rows), baseline="bin_conv_3x3 xnor")


def searchers() -> Study:
    """The cells of all searchers, compared with random cells of the same form."""
    rows = [Row("random cells", train=_random_cell, seeds=RANDOM_CELLS)]
    for name in SEARCHERS:
        # BNAS is the searcher of the preset `digits`.
        preset = "digits"
        if name != "bnas":
            preset = f"digits_{name}"
        search_config = functools.partial(_search, preset=preset)
        rows.append(Row(name, train=_searched_cell, search=search_config))
    title = "Cells of the searchers and random cells"
    return Study(title, tuple(rows), baseline="random cells")


def objective() -> Study:
    """BNAS with another gamma (Eq. 4), without Eq. 5, and without Zeroise."""
    variants: dict[str, dict[str, Any]] = {
        "bnas": {},
        "gamma 3": {"gamma": 3.0},
        "no diversity": {"diversity": 0.0},
        "no Zeroise": {"keep_zeroise": False},
    }
    rows = []
    for name, changed in variants.items():
        search_config = functools.partial(_search, preset="digits", **changed)
        rows.append(Row(name, train=_searched_cell, search=search_config))
    return Study("BNAS's objective and derivation", tuple(rows), baseline="bnas")


STUDIES = {
    "digits": digits,
    "schemes_cell": schemes_cell,
    "schemes_resnet18": schemes_resnet18,
    "layers": layers,
    "searchers": searchers,
    "objective": objective,
}


# The configs of the rows, as functions of a seed. The study sets `config.seed`.


def _preset(seed: int) -> ConfigDict:
    """The training of the quickstart."""
    del seed
    return train.get_config("digits")


def _cells(seed: int, *, scheme: str) -> ConfigDict:
    """The training of five BNAS cells with a scheme."""
    del seed
    config = train.get_config("digits")
    template.choose(config, "scheme", scheme)
    config.num_epochs = EPOCHS
    return config


def _baseline(seed: int, *, name: str, scheme: str) -> ConfigDict:
    """The training of a preset of baselines.py with a scheme."""
    del seed
    config = baselines.get_config(name)
    template.choose(config, "scheme", scheme)
    config.num_epochs = EPOCHS
    return config


def _layer_row(layer_type: str, scheme: str, *, depthwise_center: bool = False) -> Row:
    """A row of the study `layers`.

    depthwise_center: whether depthwise kernels are centred.
    """

    def config_of(seed: int) -> ConfigDict:
        config = _baseline(seed, name="digits_small_cnn", scheme=scheme)
        config.network.layer_type = layer_type
        # Float convolutions have no such setting.
        if scheme == "xnor":
            config.scheme.depthwise_center = depthwise_center
        return config

    name = f"{layer_type} {scheme}"
    if depthwise_center:
        name += " centred"
    return Row(name, train=config_of, seeds=3)


def _random_cell(seed: int) -> ConfigDict:
    """The training of a random cell."""
    config = _cells(seed, scheme="xnor")
    weights = sample(jax.random.key(seed), len(TABLE_3))
    cells = genotype_of(weights, TABLE_3).to_dict()
    config.network.genotype = (
        f"Genotype(normal={cells['normal']}, reduce={cells['reduce']})"
    )
    return config


def _searched_cell(seed: int) -> ConfigDict:
    """The training of the cell of a search, which the study sets."""
    return _cells(seed, scheme="xnor")


def _search(seed: int, *, preset: str, **changed) -> ConfigDict:
    """The search of a preset of search.py. changed: settings of the searcher."""
    del seed
    config = search.get_config(preset)
    config.searcher.update(changed)
    return config
