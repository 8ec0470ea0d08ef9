r"""Ablations, as small changes of the presets of search.py and train.py.

    python -m bnas_jax search --workdir=DIR \
        --config=configs/ablations.py:search_no_diversity_cifar10
    python -m bnas_jax search --workdir=DIR \
        --config=configs/ablations.py:search_float_zeroise_cifar10_darts
    python -m bnas_jax train --workdir=DIR \
        --config=configs/ablations.py:train_no_skip_a

A variant is TASK_ABLATION_PRESET, with one or several ablations joined by underscores.
Its cost is that of the preset. The paper's top-1 on CIFAR-10 in %, not measured here:

| | what changes | A | B | C | table |
|---|---|---|---|---|---|
| full | | 92.70 | 93.76 | 94.43 | 8 |
| no_skip | no skips between cells | 61.23 | 67.15 | 70.58 | 8 |
| no_zeroise | no Zeroise in the derived cell | 89.47 | 91.69 | 88.74 | 2, 8, 9 |
| no_diversity | a search without Eq. 5 | 90.95 | 91.55 | 92.66 | 4, 8 |
| no_dilated | a search without dilated convolutions | 92.22 | | | 10 |
| separable | a search with separable convolutions (A with a dagger) | 89.66 | | | 11 |

and for DARTS, without binarization:

| | what changes | top-1 | table |
|---|---|---|---|
| float of cifar10_darts | | 97.45, 96.53 | 2, 4 |
| float_zeroise of cifar10_darts | the derived cell may have Zeroise | 94.43 | 2 |
| float_diversity of cifar10_darts | a search with Eq. 5 | 96.73 | 4 |

`float` is the setting of DARTS, SNAS and GDAS: no binarization, DARTS's eight layer
types, no skips between cells. Their published cells, binarized, give 10.01, 41.72 and
43.19 (Table 11). For an ablation without a published cell, search first, then train
with --config.network.genotype=DIR/genotype.json. no_zeroise, zeroise, no_diversity and
diversity are for bnas and darts.
"""

from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import DARTS_TYPES
from bnas_jax.search import SEARCHERS
from bnas_jax.settings import entries, template
from configs import search, train

# The forms of the networks of some searchers; all others have the form of DARTS.
FORMS = {"snas": "snas", "gdas": "gdas"}
# The layer types that `separable` adds to the search space.
SEPARABLE = ("sep_conv_3x3", "sep_conv_5x5")


def get_config(variant: str = "train_no_skip_a"):
    """The settings of TASK_ABLATION_PRESET."""
    task, ablations, preset = _parsed(variant)
    config = {"search": search, "train": train}[task].get_config(preset)

    # `float` comes first, whatever the order in the name: it sets the layer types,
    # which other ablations change.
    for name in sorted(ablations, key=lambda name: name != "float"):
        if task == "search":
            _check_searcher(name, config)
            change = ABLATIONS[name]
        else:
            change = TRAININGS.get(name, ask_for_cell)
        change(config)
    return config


def _parsed(variant: str) -> tuple[str, list[str], str]:
    """(task, ablations, preset) of a variant.

    Raises `UserError` for an unknown task, and for a variant without an ablation.
    """
    task, _, rest = variant.partition("_")
    # Names of ablations have underscores, so that they are removed from the front one
    # by one.
    ablations = []
    while name := _first_ablation(rest):
        ablations.append(name)
        rest = rest.removeprefix(f"{name}_")
    if task not in ("search", "train") or not ablations:
        choices = ", ".join(ABLATIONS)
        raise UserError(
            f"no ablation {variant!r}: write TASK_ABLATION_PRESET with TASK search or "
            f"train, ABLATION {choices}"
        )
    return task, ablations, rest


def _first_ablation(names: str) -> str | None:
    """The ablation that a text begins with, or None."""
    for name in ABLATIONS:
        if names.startswith(f"{name}_"):
            return name
    return None


def _check_searcher(ablation: str, config) -> None:
    """Raises `UserError` if the searcher does not have the setting of an ablation."""
    setting = SEARCHER_SETTINGS.get(ablation)
    searcher = config.searcher.name
    if setting is not None and setting not in entries.settings_of(SEARCHERS[searcher]):
        raise UserError(
            f"the ablation {ablation} is for bnas and darts: {searcher} has no "
            f"searcher.{setting}"
        )


def no_skip(config) -> None:
    """No inter-cell skips."""
    config.network.skip = False


def no_zeroise(config) -> None:
    """No Zeroise in the derived cell."""
    config.searcher.keep_zeroise = False


def zeroise(config) -> None:
    """The derived cell may have Zeroise (for DARTS)."""
    config.searcher.keep_zeroise = True


def no_diversity(config) -> None:
    """A search without Eq. 5."""
    config.searcher.diversity = 0.0


def diversity(config) -> None:
    """A search with Eq. 5 and the paper's lambda (for DARTS)."""
    config.searcher.diversity = 1.0


def no_dilated(config) -> None:
    """A search without dilated convolutions."""
    types = config.network.layer_types
    config.network.layer_types = tuple(name for name in types if "dil" not in name)


def separable(config) -> None:
    """A search that also has separable convolutions."""
    types = config.network.layer_types
    added = [name for name in SEPARABLE if name not in types]
    config.network.layer_types = (*types, *added)


def floats(config) -> None:
    """No binarization, as in DARTS, SNAS and GDAS, with the network of their code."""
    template.choose(config, "scheme", "float")
    config.scheme.order = "relu_first"
    config.scheme.bias = config.searcher.name == "gdas"
    config.network.skip = False
    config.network.layer_types = DARTS_TYPES
    config.network.form = FORMS.get(config.searcher.name, "darts")


def without_zeroise(config) -> None:
    """The released cell without Zeroise."""
    config.network.genotype = "latest_cell"


def float_training(config) -> None:
    """The training, without binarization, of a cell that was searched without it."""
    template.choose(config, "scheme", "float")
    config.scheme.order = "relu_first"
    config.network.skip = False
    config.network.form = "darts"
    ask_for_cell(config)


def ask_for_cell(config) -> None:
    """Removes the genotype, so that the user must give that of the ablation's search.

    No such genotype is published.
    """
    config.network.genotype = None


# Ablation -> the function that changes the config of a search.
ABLATIONS = {
    "no_skip": no_skip,
    "no_zeroise": no_zeroise,
    "no_diversity": no_diversity,
    "no_dilated": no_dilated,
    "separable": separable,
    "zeroise": zeroise,
    "diversity": diversity,
    "float": floats,
}
# Ablation -> the function that changes the config of a training. All other ablations
# train the cell of their own search.
TRAININGS = {"no_skip": no_skip, "no_zeroise": without_zeroise, "float": float_training}
# Ablation -> the searcher's setting that it changes.
SEARCHER_SETTINGS = {
    "no_zeroise": "keep_zeroise",
    "zeroise": "keep_zeroise",
    "no_diversity": "diversity",
    "diversity": "diversity",
}
