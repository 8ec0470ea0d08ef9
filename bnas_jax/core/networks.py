"""The settings from which a network is built: `NetworkSettings`, and `Cells`.

The table of networks is `bnas_jax.networks`.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.cell_parts import REDUCTION_SKIPS
from bnas_jax.core.checks import choice, positive
from bnas_jax.core.errors import UserError
from bnas_jax.core.fixed_reduction import check_groups
from bnas_jax.core.forms import form_of
from bnas_jax.core.genotype import FIXED_REDUCTION, Genotype
from bnas_jax.core.network import Network
from bnas_jax.core.schemes import Scheme


@dataclasses.dataclass(frozen=True)
class NetworkSettings:
    """The base of all entries of `NETWORKS`.

    The fields of a subclass are the settings `config.network.*`, and its `build` makes
    the module. The constructor raises `UserError` for values that are not possible.

    >>> genotype = bnas.load_genotype("latest_cell")
    >>> settings = bnas.NETWORKS["cells"](genotype, num_cells=5, channels=8)
    >>> how = {"scheme": bnas.Xnor(), "arithmetic": bnas.Arithmetic()}
    >>> network = settings.build(num_classes=10, **how)
    >>> network.num_classes
    10
    """

    # Whether the module takes `drop_path_rate`.
    drops_paths: ClassVar[bool] = False

    def build(
        self, *, num_classes: int, scheme: Scheme, arithmetic: Arithmetic
    ) -> nn.Module:
        """The module, which has the fields `scheme` and `arithmetic`.

        It is called as `apply(variables, images, train=...)` and maps NHWC images to
        logits. If it drops paths and `config.optimizer.drop_path` is not 0, it is also
        called with `drop_path_rate` and the rng `drop_path`.
        """
        del num_classes, scheme, arithmetic
        raise UserError(
            f"{type(self).__name__} lacks a method: write build(self, *, num_classes, "
            "scheme, arithmetic), which returns the network"
        )


@dataclasses.dataclass(frozen=True)
class Cells(NetworkSettings):
    """A stack of searched cells (Table 5), see `network.Network`.

    genotype: the cells.
    form: stem, poolings and last layers, a name of `forms.FORMS`: cifar and imagenet
        (BNAS), darts, snas, gdas.

    The other fields are those of `Network`.
    """

    genotype: Genotype
    num_cells: int
    channels: int
    form: str = "cifar"
    skip: bool = True
    reduction_skip: str = "binary_bn"
    float_head: bool = False
    auxiliary: bool = False

    drops_paths: ClassVar[bool] = True

    def __post_init__(self):
        # Settings with a fixed set of values.
        form_of(self.form)
        choice(
            "config.network.reduction_skip",
            self.reduction_skip,
            choices=REDUCTION_SKIPS,
        )

        # Sizes.
        positive("config.network", self, "num_cells", "channels")

        # Some forms and cells need a width with certain divisors.
        step = form_of(self.form).channel_step
        if self.channels % step:
            raise UserError(
                f"config.network.channels must be a multiple of {step} in the form "
                f"{self.form}, got {self.channels}"
            )
        if self.genotype.reduce == FIXED_REDUCTION:
            # The first reduction cell doubles the channels.
            check_groups(2 * self.channels)

    def build(
        self, *, num_classes: int, scheme: Scheme, arithmetic: Arithmetic
    ) -> Network:
        """A `Network`."""
        return Network(
            genotype=self.genotype,
            num_cells=self.num_cells,
            channels=self.channels,
            num_classes=num_classes,
            form=self.form,
            skip=self.skip,
            reduction_skip=self.reduction_skip,
            float_head=self.float_head,
            auxiliary=self.auxiliary,
            scheme=scheme,
            arithmetic=arithmetic,
        )
