"""The settings of a search."""

import dataclasses

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.cell_parts import REDUCTION_SKIPS
from bnas_jax.core.checks import choice, clipping, positive, rates, require, shares
from bnas_jax.core.fixed_reduction import check_groups
from bnas_jax.core.forms import form_of
from bnas_jax.core.layers import LAYERS
from bnas_jax.core.schemes import Scheme
from bnas_jax.core.supernet import FORMS_OF_EDGES, Supernet
from bnas_jax.search import Searcher
from bnas_jax.settings import entries
from bnas_jax.settings.run import RunSettings

# The values of `select`, and of `alphas_as_of`.
SELECT = ("best", "last")
AS_OF = ("after", "before")

# The values of `alphas.optimizer`.
ALPHA_OPTIMIZERS = ("adam", "sgd")


@dataclasses.dataclass(frozen=True)
class SupernetSettings:
    """The supernet (section 5.1), see `core.supernet.Supernet`."""

    num_cells: int
    channels: int
    # Inter-cell skip connections (section 4.2).
    skip: bool
    # The search space: names of `core.layers.LAYERS`; by default Table 3.
    layer_types: tuple[str, ...]

    # Details in which the conventions differ, see `core.conventions`.
    reduction_skip: str = "binary_bn"
    float_head: bool = False
    binary_preprocess: bool = False

    # How the mixture of an edge is computed. `shared` and `plain` give the same output;
    # `chosen` runs only the layer with the largest weight, for searchers whose other
    # mixture weights are 0.
    edges: str = "shared"
    # Stem, head and sizes: cifar (BNAS), darts, snas or gdas.
    form: str = "cifar"
    # Whether the reduction cells are GDAS's hand-made one instead of searched.
    fixed_reduction: bool = False

    def __post_init__(self):
        prefix = "config.network"
        step = form_of(self.form).channel_step
        positive(prefix, self, "num_cells", "channels")
        multiple = f"a multiple of {step} in the form {self.form}"
        message = f"{prefix}.channels must be {multiple}, got {self.channels}"
        require(self.channels % step == 0, message)
        # The first reduction cell has twice the channels.
        if self.fixed_reduction:
            check_groups(2 * self.channels)
        self._check_layer_types()
        choice(f"{prefix}.reduction_skip", self.reduction_skip, choices=REDUCTION_SKIPS)
        choice(f"{prefix}.edges", self.edges, choices=FORMS_OF_EDGES)

    def _check_layer_types(self) -> None:
        """Raises `UserError` for unknown or equal layer types, or none with weights."""
        name = "config.network.layer_types"
        unknown = [layer for layer in self.layer_types if layer not in LAYERS]
        known = ", ".join(LAYERS)
        require(not unknown, f"{name}: unknown {', '.join(unknown)}; known: {known}")

        # A supernet with only poolings would have nothing to train.
        learnable = [layer for layer in LAYERS if LAYERS[layer].learnable]
        listed = ", ".join(learnable)
        message = f"{name} needs a layer type with weights, one of {listed}"
        require(any(layer in learnable for layer in self.layer_types), message)
        distinct = set(self.layer_types)
        require(len(distinct) == len(self.layer_types), f"{name} names a type twice")

    def build(
        self, *, num_classes: int, scheme: Scheme, arithmetic: Arithmetic
    ) -> Supernet:
        """The supernet of these settings."""
        return Supernet(
            num_cells=self.num_cells,
            channels=self.channels,
            num_classes=num_classes,
            layer_types=self.layer_types,
            skip=self.skip,
            reduction_skip=self.reduction_skip,
            float_head=self.float_head,
            binary_preprocess=self.binary_preprocess,
            edges=self.edges,
            form=self.form,
            fixed_reduction=self.fixed_reduction,
            scheme=scheme,
            arithmetic=arithmetic,
        )


@dataclasses.dataclass(frozen=True)
class WeightSettings:
    """SGD on the supernet's weights.

    The learning rate falls along half a cosine, and is constant within each epoch.
    """

    learning_rate: float
    min_learning_rate: float
    momentum: float
    weight_decay: float
    # The largest norm of the gradient; a larger gradient is scaled down to it. None
    # takes the convention's value, inf does not clip.
    clip_norm: float | None
    # The position of the first epoch on the cosine: 0, or 1 in the release, which steps
    # its scheduler before each epoch.
    first_epoch: int
    nesterov: bool = False

    def __post_init__(self):
        prefix = "config.weights"
        rates(prefix, self, "learning_rate")
        rates(prefix, self, "min_learning_rate", "weight_decay", least=0)
        shares(prefix, self, "momentum")
        clipping(prefix, self)
        choice(f"{prefix}.first_epoch", self.first_epoch, choices=(0, 1))
        message = f"{prefix}.nesterov needs a momentum; write {prefix}.momentum=0.9"
        require(not self.nesterov or self.momentum > 0, message)


@dataclasses.dataclass(frozen=True)
class AlphaSettings:
    """The optimizer of alpha: Adam (DARTS) or gradient descent (SNAS on one GPU).

    weight_decay is the factor of an L2 term: the gradient gets this times alpha.
    """

    learning_rate: float
    beta1: float
    beta2: float
    weight_decay: float
    # The largest norm of the gradient; None does not clip.
    clip_norm: float | None = None
    # `adam`, or `sgd` without momentum, which ignores beta1 and beta2.
    optimizer: str = "adam"

    def __post_init__(self):
        prefix = "config.alphas"
        choice(f"{prefix}.optimizer", self.optimizer, choices=ALPHA_OPTIMIZERS)
        rates(prefix, self, "learning_rate")
        rates(prefix, self, "weight_decay", least=0)
        shares(prefix, self, "beta1", "beta2")
        clipping(prefix, self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchSettings(RunSettings):
    """The settings of a search."""

    network: SupernetSettings
    # An entry of `search.SEARCHERS`.
    searcher: Searcher
    weights: WeightSettings
    alphas: AlphaSettings

    # The epoch from which the genotype is derived: `best`, the one with the best
    # validation accuracy, or `last`.
    select: str
    # The genotype is derived from alpha `after` that epoch, or `before` it as in the
    # release.
    alphas_as_of: str
    # `epoch`: the batches for alpha have each held-out image once in an epoch. `fresh`:
    # each batch is a new draw from all held-out images, as in the release.
    alpha_batches: str

    def __post_init__(self):
        super().__post_init__()
        choice("config.select", self.select, choices=SELECT)
        choice("config.alphas_as_of", self.alphas_as_of, choices=AS_OF)
        choice("config.alpha_batches", self.alpha_batches, choices=("epoch", "fresh"))

        # A wrong setting of the derivation is an error before the search, not after it.
        entries.derivation_settings()

        # The supernet must fit the searcher.
        searcher = self.searcher
        message = (
            "config.network.edges=chosen runs one layer an edge, and the weights of "
            "this searcher mix them: write config.network.edges=shared"
        )
        require(self.network.edges != "chosen" or searcher.one_layer, message)

        # So must the number of epochs, and the selected epoch.
        self._check_restarts(searcher.restart_epochs)
        self._check_select()

    def _check_select(self) -> None:
        """Raises `UserError` for the best epoch of a search without validation."""
        # Epochs are validated on the part of the training set that the weights are not
        # trained on.
        searcher = self.searcher
        validated = searcher.has_alphas and searcher.train_share < 1

        # Without that part, the advice is also to hold one out.
        instead = ""
        if searcher.has_alphas:
            instead = (
                ", or config.searcher.train_share=0.9, which holds a part of the data "
                "out"
            )
        message = (
            "config.select=best is for searchers whose epochs are validated: write "
            f"config.select=last{instead}"
        )
        require(validated or self.select == "last", message)

    def _check_restarts(self, period: int | None) -> None:
        """Raises `UserError` unless a search with restarts ends after a whole period.

        Such a search also needs `config.select=best`, because `last` would take its
        last candidate.

        period: the number of epochs after which the search restarts with another
            candidate; None for a search without restarts.
        """
        if period is None:
            return

        # Each candidate is trained for `period` epochs.
        nearest = period * max(round(self.num_epochs / period), 1)
        message = (
            f"config.num_epochs={self.num_epochs} must be a multiple of {period}, the "
            "epochs after which this searcher restarts (a setting of "
            f"config.searcher): write config.num_epochs={nearest}"
        )
        require(self.num_epochs % period == 0, message)

        # The last epoch belongs to the last candidate, not to the best.
        message = (
            "config.select=last would take the last candidate, whatever its accuracy: "
            "write config.select=best"
        )
        require(self.select == "best", message)
