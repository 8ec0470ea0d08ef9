"""The ablations of Table 8 and Table 10, as small deltas on the presets of search.py and train.py.

    python -m bnas_jax search --config=configs/ablations.py:search_no_diversity_cifar10 --workdir=DIR
    python -m bnas_jax train --config=configs/ablations.py:train_no_skip_a --workdir=DIR

A variant is TASK_ABLATION_PRESET. Cost: that of the preset. The paper's top-1 on CIFAR-10 in % (Table 8; no_dilated: Table 10):

| | a | b | c |
|---|---|---|---|
| full | 92.70 | 93.76 | 94.43 |
| no_skip | 61.23 | 67.15 | 70.58 |
| no_zeroise | 89.47 | 91.69 | 88.74 |
| no_diversity | 90.95 | 91.55 | 92.66 |
| no_dilated | 92.22 | | |

The cells of no_diversity and no_dilated come from their searches: give the training
--config.network.genotype=DIR/genotype.json.
"""

from bnas_jax.core.genotype import TABLE_3
from configs import search, train

ABLATIONS = ("no_skip", "no_zeroise", "no_diversity", "no_dilated")


def get_config(variant: str = "train_no_skip_a"):
    """The settings of TASK_ABLATION_PRESET."""
    task, _, rest = variant.partition("_")
    ablation = next((a for a in ABLATIONS if rest.startswith(a + "_")), None)
    if task not in ("search", "train") or ablation is None:
        choices = ", ".join(ABLATIONS)
        raise ValueError(f"no ablation {variant!r}: write TASK_ABLATION_PRESET with TASK search or train, ABLATION {choices}")
    preset = rest.removeprefix(ablation + "_")
    if task == "search":
        return _search(search.get_config(preset), ablation)
    return _train(train.get_config(preset), ablation)


def _search(config, ablation: str):
    if ablation == "no_skip":
        config.network.skip = False
    elif ablation == "no_zeroise":
        config.searcher.keep_zeroise = False
    elif ablation == "no_diversity":
        config.searcher.diversity = 0.0
    else:
        config.network.layer_types = tuple(t for t in TABLE_3 if "dil" not in t)
    return config


def _train(config, ablation: str):
    if ablation == "no_skip":
        config.network.skip = False
    elif ablation == "no_zeroise":
        config.network.genotype = "latest_cell"
    else:
        # The cell of this ablation's own search is to be named: none is published.
        config.network.genotype = None
    return config
