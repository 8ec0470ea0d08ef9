"""The settings of a search."""

import dataclasses

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.cell import REDUCTION_SKIPS, check_groups
from bnas_jax.core.forms import form_of
from bnas_jax.core.layers import LAYERS
from bnas_jax.core.schemes import Scheme
from bnas_jax.core.supernet import FORMS_OF_EDGES, Supernet
from bnas_jax.search import Searcher
from bnas_jax.settings.checks import choice, clipping, positive, rates, require, shares
from bnas_jax.settings.run import RunSettings

SELECT = ("best", "last")
AS_OF = ("after", "before")


@dataclasses.dataclass(frozen=True)
class SupernetSettings:
    """The supernet (section 5.1), see `core.supernet.Supernet`.

    layer_types: the search space, names of `core.layers.LAYERS`; by default Table 3. edges: `shared` or `plain`, two forms
    of one function, or `chosen`, which runs the layer of the largest weight alone, for searchers whose weights are 0 beside it.
    form: what differs beside the edges: cifar (BNAS), darts, snas, gdas. fixed_reduction: the reduction cells are the hand-made
    ones of GDAS.
    """

    num_cells: int
    channels: int
    skip: bool
    layer_types: tuple[str, ...]
    reduction_skip: str = "binary_bn"
    float_head: bool = False
    binary_preprocess: bool = False
    edges: str = "shared"
    form: str = "cifar"
    fixed_reduction: bool = False

    def __post_init__(self):
        prefix = "config.network"
        step = form_of(self.form).channel_step
        positive(prefix, self, "num_cells", "channels")
        multiple = f"a multiple of {step} in the form {self.form}"
        require(
            self.channels % step == 0, f"{prefix}.channels must be {multiple}, got {self.channels}"
        )
        if self.fixed_reduction:
            check_groups(2 * self.channels)
        unknown = [name for name in self.layer_types if name not in LAYERS]
        require(
            not unknown,
            f"{prefix}.layer_types: unknown {', '.join(unknown)}; known: {', '.join(LAYERS)}",
        )
        learnable = [name for name in LAYERS if LAYERS[name].learnable]
        require(
            any(name in learnable for name in self.layer_types),
            f"{prefix}.layer_types needs a layer type with weights, one of {', '.join(learnable)}",
        )
        require(
            len(set(self.layer_types)) == len(self.layer_types),
            f"{prefix}.layer_types names a type twice",
        )
        choice(f"{prefix}.reduction_skip", self.reduction_skip, REDUCTION_SKIPS)
        choice(f"{prefix}.edges", self.edges, FORMS_OF_EDGES)

    def build(self, *, num_classes: int, scheme: Scheme, arithmetic: Arithmetic) -> Supernet:
        """The supernet."""
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
    """SGD on the supernet's weights, cosine-annealed each epoch. clip_norm: None is the convention's, inf does not clip.

    first_epoch: where on the cosine the first epoch lies: 0, or 1 in the release, which steps its scheduler beforehand.
    nesterov: Nesterov's momentum.
    """

    learning_rate: float
    min_learning_rate: float
    momentum: float
    weight_decay: float
    clip_norm: float | None
    first_epoch: int
    nesterov: bool = False

    def __post_init__(self):
        rates("config.weights", self, "learning_rate")
        rates("config.weights", self, "min_learning_rate", "weight_decay", least=0)
        shares("config.weights", self, "momentum")
        clipping("config.weights", self)
        choice("config.weights.first_epoch", self.first_epoch, (0, 1))


@dataclasses.dataclass(frozen=True)
class AlphaSettings:
    """Adam on alpha, with L2 regularisation (DARTS). clip_norm: to which alpha's gradient is clipped before, or None."""

    learning_rate: float
    beta1: float
    beta2: float
    weight_decay: float
    clip_norm: float | None = None

    def __post_init__(self):
        rates("config.alphas", self, "learning_rate")
        rates("config.alphas", self, "weight_decay", least=0)
        shares("config.alphas", self, "beta1", "beta2")
        clipping("config.alphas", self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchSettings(RunSettings):
    """A search.

    select: the genotype taken, of the epoch with the best validation accuracy or of the last. alphas_as_of: alpha as it was
    `after` that epoch, or `before` it, as in the release. alpha_batches: `epoch`: alpha's batches go through their half of
    the data without replacement, epoch by epoch; `fresh`: each is drawn from all of it, as in the release.
    """

    network: SupernetSettings
    searcher: Searcher
    weights: WeightSettings
    alphas: AlphaSettings
    select: str
    alphas_as_of: str
    alpha_batches: str

    def __post_init__(self):
        super().__post_init__()
        choice("config.select", self.select, SELECT)
        choice("config.alphas_as_of", self.alphas_as_of, AS_OF)
        choice("config.alpha_batches", self.alpha_batches, ("epoch", "fresh"))
        searcher = self.searcher
        message = (
            "config.network.edges=chosen runs one layer an edge, and the weights of this searcher mix them: write"
            " config.network.edges=shared"
        )
        require(self.network.edges != "chosen" or searcher.one_layer, message)
        validated = searcher.has_alphas and searcher.train_share < 1
        instead = (
            ", or config.searcher.train_share=0.9, which holds a part of the data out"
            if searcher.has_alphas
            else ""
        )
        message = f"config.select=best is for searchers whose epochs are validated: write config.select=last{instead}"
        require(validated or self.select == "last", message)
