"""Presets that search a binary cell (section 5.1, "Search details").

    python -m bnas_jax search --config=configs/search.py:VARIANT --workdir=DIR

| variant | data | time |
|---|---|---|
| digits | embedded, 8x8 | three minutes on 2 CPU cores |
| cifar10 | CIFAR-10 | the paper's: 10 hours on one RTX 2080 Ti |
| digits_SEARCHER | embedded, 8x8 | about as digits |
| cifar10_SEARCHER | CIFAR-10 | not measured |

Results: trained for 20 epochs, the cells of `digits` reach 97.4 %, those of
digits_SEARCHER 96.2 to 98.4 %, and random cells 98.6 % (docs/results.md). In the paper,
BNAS-A with the cell of `cifar10` reaches 92.70 %; no result of `cifar10` or
cifar10_SEARCHER was measured here.

SEARCHER is one of the search algorithms below. Each has its published learning rates,
sizes and epochs for CIFAR-10, but the search space and the cell template of BNAS, so
that only the algorithms differ. For the same reason --config.conventions decides how
alpha's batches are drawn and where the schedule begins, as for BNAS; with `release`,
alpha's batches are drawn with replacement, as in the code of DARTS. For searches
without binarization, see `float` in ablations.py. The genotype of darts, snas and gdas
is derived from the last epoch, as in their code.

- darts (arXiv 1806.09055; code at f276dd3): 8 cells of 16 channels, 50 epochs, batch
  size 64. The weights learn on one half: SGD .025 to .001 (cosine), momentum .9, decay
  3e-4, clipped to 5. alpha learns on the other half: Adam 3e-4 (.5, .999), decay 1e-3.
- darts_second: alpha's gradient after a virtual step, by a finite difference. That is
  unstable in a binary supernet; --config.searcher.unrolled=exact is not.
- snas (arXiv 1812.09926; code at 9a43adb): weights as in DARTS, but 150 epochs of the
  whole training set, drop-path .3. alpha learns from the same loss, clipped to 10;
  temperature 1 to .03; resource loss 1.5e-3, of the costs that we count. On several
  GPUs the code of SNAS updates alpha by Adam, as this preset does; on one GPU it uses
  gradient descent: --config.alphas.optimizer=sgd --config.alphas.weight_decay=0.
- gdas (arXiv 1910.04465; code at f46486e): 6 cells, 250 epochs, batch size 256,
  Nesterov momentum, decay 5e-4. The weight step comes first, and clips the gradients of
  weights and alpha together; tau 10 to .1.
- random (arXiv 1902.07638; code at 6513a0a): weights as in DARTS, but each step trains
  one random cell. Then 1000 random cells are scored with these weights on 10 batches
  each, and the best ten on all batches.
- random_trained: weights as in DARTS; the best of ten random cells, each trained
  separately for five epochs. The comparison of DARTS had 24 cells of 100 epochs:
  --config.num_epochs=2400 --config.searcher.candidate_epochs=100.

Where the paper's text and the authors' code differ, `config.paper` and `config.release`
below have the values of each, and --config.conventions chooses. `meant` is the code
without the two index errors that change a result (docs/conventions.md): it differs from
`release` in `config.network.float_head` and in the values of `config.meant`. The
released entropy (Eq. 5) adds the reduction cell's last edge fourteen times, so that its
other 13 edges have no term. The released gamma (Eq. 4) divides all layer types of edge
0, which does not change the derived genotype (see `derivation.derive`).

Where the text says nothing, the code decides: no affine BN, float preprocessing
convolutions, Adam on alpha (as in DARTS), the epoch with the best validation accuracy
of the supernet, no clipping of gradients (DARTS: norm 5). A digits search of 50 epochs
without clipping (version 0.1.0, seed 0) was stable: its validation accuracy was 98.61 %
at best and 98.19 % in the last epoch.

No convention reproduces these details:

- Incomplete batches: an epoch of half of CIFAR-10 has 390 steps here. The release has
  391, and its last batch has 40 images; here as many images are left out of each epoch.
- `in_order` means the order of the files. TFDS shuffled CIFAR-10 when it wrote them, so
  that the halves are not those of the release.
"""

import functools
from collections.abc import Callable

from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import TABLE_3
from bnas_jax.settings import template


def get_config(variant: str = "cifar10"):
    """The search settings of `digits` or `cifar10`.

    The searcher is BNAS, or the one that the variant names, as in `digits_darts`.
    """
    data, _, searcher = variant.partition("_")
    if data not in ("digits", "cifar10") or (searcher and searcher not in SEARCHERS):
        raise UserError(
            f"no search preset {variant!r}: write digits or cifar10, or _SEARCHER "
            f"behind it: {', '.join(SEARCHERS)}"
        )

    # Begin with BNAS on CIFAR-10, which the searcher and the digits change.
    config = template.settings("search")
    config.num_epochs = 50
    config.batch_size = 64
    _set_network(config)
    _set_optimizers(config)
    _set_conventions(config)
    if searcher:
        SEARCHERS[searcher](config)
    if data == "digits":
        digits(config)
    return config


def _set_network(config) -> None:
    """The supernet of the paper's search."""
    config.network.num_cells = 8
    config.network.channels = 16
    config.network.skip = True
    config.network.layer_types = TABLE_3
    config.network.binary_preprocess = False
    config.network.edges = "shared"
    config.network.form = "cifar"
    config.network.fixed_reduction = False


def _set_optimizers(config) -> None:
    """SGD on the weights, and Adam on alpha."""
    config.weights.learning_rate = 0.025
    config.weights.momentum = 0.9
    config.weights.weight_decay = 3e-4
    config.weights.nesterov = False

    config.alphas.optimizer = "adam"
    config.alphas.beta1 = 0.5
    config.alphas.beta2 = 0.999
    config.alphas.learning_rate = 3e-4
    config.alphas.weight_decay = 1e-3


def _set_conventions(config) -> None:
    """The settings in which the paper's text and the authors' code differ."""
    config.paper = {
        "weights": {"min_learning_rate": 0.0, "clip_norm": None, "first_epoch": 0},
        "searcher": {"entropy": "all"},
        "alphas_as_of": "after",
        "alpha_batches": "epoch",
        "dataset": {"search_split": "random", "augment_validation": False},
    }
    config.release = {
        "weights": {"min_learning_rate": 0.001, "clip_norm": None, "first_epoch": 1},
        "searcher": {"entropy": "released"},
        "alphas_as_of": "before",
        "alpha_batches": "fresh",
        "dataset": {"search_split": "in_order", "augment_validation": True},
    }
    config.meant = {"searcher": {"entropy": "all"}}


def darts(config, *, unrolled: str = "none") -> None:
    """DARTS: first order, or second order with `unrolled`."""
    _published(config, "darts")
    config.searcher.unrolled = unrolled


def snas(config) -> None:
    """SNAS, as in its train_search.py with the settings of its README.

    alpha is updated by Adam, as in this code on several GPUs.
    """
    _published(config, "snas")
    config.num_epochs = 150
    config.alphas.clip_norm = 10.0

    # The temperature of the samples falls. Weights and alpha both learn on the whole
    # training set.
    config.searcher.update(
        {
            "temperature_start": 1.0,
            "temperature_end": 0.03,
            "drop_path": 0.3,
            "train_share": 1.0,
        }
    )
    config.searcher.resource_weight = 1.5e-3  # for the costs that we count


def gdas(config) -> None:
    """GDAS. The searcher clips the gradients of weights and alpha together."""
    _published(config, "gdas")
    config.num_epochs = 250
    config.batch_size = 256
    config.network.num_cells = 6
    # With `chosen`, either all edges are binary or none. The convention `release` would
    # leave some of them float.
    config.network.edges = "chosen"
    config.network.float_head = False

    config.weights.update({"weight_decay": 5e-4, "nesterov": True, "clip_norm": None})
    config.searcher.update({"tau_max": 10.0, "tau_min": 0.1, "clip_norm": 5.0})


def random(config) -> None:
    """Random search with shared weights: learning rates of DARTS, and no alpha."""
    _published(config, "random")
    config.searcher.update({"candidates": 1000, "score_batches": 10, "finalists": 10})


def random_trained(config) -> None:
    """Random search with trained cells: ten cells, five epochs each."""
    _published(config, "random_trained")
    # See `gdas`.
    config.network.edges = "chosen"
    config.network.float_head = False
    config.searcher.candidate_epochs = 5
    # The last epoch belongs to the last cell, not to the best.
    config.select = "best"


def _published(config, searcher: str) -> None:
    """The settings that the code of all other searchers shares."""
    template.choose(config, "searcher", searcher)
    config.weights.update({"min_learning_rate": 0.001, "clip_norm": 5.0})
    config.select = "last"


SEARCHERS: dict[str, Callable] = {
    "darts": darts,
    "darts_second": functools.partial(darts, unrolled="difference"),
    "snas": snas,
    "gdas": gdas,
    "random": random,
    "random_trained": random_trained,
}


def digits(config) -> None:
    """A search on the digits that takes a laptop a few minutes.

    It has fewer and narrower cells, fewer epochs, and a larger learning rate of alpha.
    """
    config.dataset.name = "digits"
    config.num_epochs = 15
    config.batch_size = 64
    config.network.num_cells = 4
    config.network.channels = 4
    config.alphas.learning_rate = 3e-3

    # Settings of the searcher.
    if config.searcher.name in ("bnas", "darts"):
        # The same share of the search as 7.7 of 50 epochs.
        config.searcher.tau = 2.3
    if config.searcher.name == "snas":
        # Nothing is held out, so that an epoch has twice as many steps.
        config.num_epochs = 8
    if config.searcher.name == "random":
        config.searcher.update({"candidates": 50, "score_batches": 4, "finalists": 5})
    if config.searcher.name == "random_trained":
        config.searcher.candidate_epochs = 3
