"""The final network: the searched cells, stacked to a budget (section 5.1, Table 5)."""

import math
from typing import Any

import flax.linen as nn
import jax

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.cell import FinalCell, num_convs, num_layers
from bnas_jax.core.cell_parts import drop_path
from bnas_jax.core.errors import UserError, shown
from bnas_jax.core.fixed_reduction import FixedReduction
from bnas_jax.core.forms import AuxiliaryHead, classify, form_of
from bnas_jax.core.genotype import FIXED_REDUCTION, INPUTS, Genotype, edges
from bnas_jax.core.layers import channel_step_of
from bnas_jax.core.normalization import share, value_of
from bnas_jax.core.schemes import Scheme, Xnor
from bnas_jax.core.stack import (
    Place,
    check_fields,
    check_image_size,
    check_images,
    reductions,
    stack,
)


class Network(nn.Module):
    """The final network, called as `apply(variables, images, train=False)`.

    It maps images (N, H, W, channels of an image) to logits (N, num_classes).

    num_cells: the number of cells (Table 5).
    channels: the width C of the nodes before the first reduction. Table 5 calls it the
        number of channels of the first convolution, but that has 3 C, or C / 2 in the
        form imagenet.
    form: stem, poolings and last layers, a name of `forms.FORMS`.
    skip: whether there are inter-cell skips.
    reduction_skip: the skip across a reduction cell, see `cell_parts.ReductionSkip`.
    float_head: True leaves the last convolutions float, as the released code does, see
        `float_convs`.
    auxiliary: True adds DARTS's auxiliary classifier after the second reduction, only
        in training. Its logits are sown as `logits` in the collection `auxiliary`.

    Raises `UserError` for a genotype, a scheme or an arithmetic of another type, and
    for a size below 1.

    BNAS-A of Table 5:

    >>> genotype = bnas.load_genotype("latest_cell")
    >>> network = bnas.Network(genotype, num_cells=20, channels=36, num_classes=10)
    >>> sum(place.reduction for place in network.places)
    2
    """

    genotype: Genotype
    num_cells: int
    channels: int
    num_classes: int
    form: str = "cifar"
    skip: bool = True
    reduction_skip: str = "binary_bn"
    float_head: bool = False
    auxiliary: bool = False
    scheme: Scheme = Xnor()
    arithmetic: Arithmetic = Arithmetic()

    def __post_init__(self):
        # The most likely mistake is to pass a genotype's name.
        if not isinstance(self.genotype, Genotype):
            raise UserError(
                f"genotype must be a Genotype, got {shown(self.genotype)}; "
                "bnas_jax.load_genotype reads a name or a file"
            )
        check_fields(self)
        super().__post_init__()

    @nn.compact
    def __call__(self, images, *, train: bool = False, drop_path_rate=None):
        """Logits (N, num_classes).

        Raises `UserError` for images without four axes, for integers, and for a size
        that cannot be halved at each reduction.

        images: (N, H, W, channels of an image).
        drop_path_rate: None, or the probability with which a layer is dropped in
            training; it needs the rng `drop_path`.
        """
        check_images(images)
        images = images.astype(self.arithmetic.dtype)

        # The factors of drop-path for each cell: (layers, N), or None in an evaluation.
        factors: list | jax.Array = [None] * self.num_cells
        if train and drop_path_rate is not None:
            factors = self._drop_path(drop_path_rate, batch=len(images))

        # The stem gives both inputs of the first cell.
        form = form_of(self.form)
        stem = form.stem(
            channels=self.channels, arithmetic=self.arithmetic, name="stem"
        )
        before, previous = stem(images, train=train)
        check_image_size(previous.shape, self.num_cells, image_stride=form.image_stride)

        # Two cells read each output and share its batch norm. CIFAR's stem gives the
        # first cell the same output twice, ImageNet's gives it two different ones.
        same = before is previous
        previous = self._shared(previous, train=train)
        if same:
            before = previous

        # Each cell reads the outputs of the two preceding cells.
        left_float = float_convs(self)
        for place in self.places:
            cell = self._cell(place, float_convs=left_float[place.index])
            output = cell(before, previous, train=train, factors=factors[place.index])
            before, previous = previous, output

            # The last output has no cell to share it: only the classifier reads it.
            if place.index + 1 < self.num_cells:
                previous = self._shared(output, train=train)

            # The auxiliary classifier reads the second reduction cell.
            if self.auxiliary and place.index == reductions(self.num_cells)[-1]:
                self._sow_auxiliary(output, train=train)

        return classify(
            form,
            value_of(previous),
            num_classes=self.num_classes,
            arithmetic=self.arithmetic,
            train=train,
        )

    def _drop_path(self, rate, *, batch: int) -> jax.Array:
        """The factors of all layers, (cells, layers, N).

        layers is the number of layers of the larger of the two cells.
        """
        cells = [self.genotype.cell(place.reduction) for place in self.places]
        return drop_path(
            self.make_rng("drop_path"),
            rate,
            cells=self.num_cells,
            layers=max(map(num_layers, cells)),
            batch=batch,
            arithmetic=self.arithmetic,
        )

    def _shared(self, output, *, train: bool):
        """A cell's or the stem's output, `Shared` by the two cells that read it."""
        return share(
            output, scheme=self.scheme, arithmetic=self.arithmetic, train=train
        )

    def _cell(self, place: Place, *, float_convs: int) -> FinalCell | FixedReduction:
        """The cell at a place. float_convs: its entry of the function `float_convs`."""
        cell = self.genotype.cell(place.reduction)
        # The fields that both kinds of cells have.
        common: dict[str, Any] = {
            "place": place,
            "form": form_of(self.form),
            "scheme": self.scheme,
            "arithmetic": self.arithmetic,
            "skip": self.skip,
            "reduction_skip": self.reduction_skip,
            "name": place.name,
        }
        # The cell named `FIXED_REDUCTION`.
        if isinstance(cell, str):
            return FixedReduction(search=False, **common)
        return FinalCell(cell=cell, float_convs=float_convs, **common)

    def _sow_auxiliary(self, x, *, train: bool) -> None:
        """Sows the auxiliary classifier's logits in training.

        x: the output of the second reduction cell, NHWC.
        """
        # An evaluation does not need them; initialising makes the head's variables.
        if not train and not self.is_initializing():
            return
        head = AuxiliaryHead(
            num_classes=self.num_classes,
            arithmetic=self.arithmetic,
            name="auxiliary_head",
        )
        logits = head(x, train=train)
        if not self.is_initializing():
            self.sow("auxiliary", "logits", logits)

    @property
    def channel_step(self) -> int:
        """The number that `channels` should be a multiple of.

        At its multiples, the groups of all convolutions have whole numbers of channels.
        """
        # What the form, the scheme, the reduction cell and each layer type need.
        steps = [form_of(self.form).channel_step, self.scheme.width_step]
        if self.genotype.reduce == FIXED_REDUCTION:
            # The first reduction doubles the channels. Each of its groups needs a
            # multiple of the scheme's step.
            steps.append(FixedReduction.GROUPS // 2 * self.scheme.width_step)
        for reduction in (False, True):
            for edge in edges(self.genotype.cell(reduction)):
                steps.append(channel_step_of(edge.layer_type))
        return math.lcm(*steps)

    @property
    def places(self) -> tuple[Place, ...]:
        """The place of each cell in the stack."""
        return stack(self.num_cells, self.channels, halved=form_of(self.form).halved)


def float_convs(network: Network) -> list[int]:
    """How many of each cell's last convolutions stay float (`float_head`).

    The released code leaves them float by an index error. Its range has as many indices
    as there are convolutions to binarize, which excludes the skips; but it indexes a
    list that includes the skips. The range therefore ends too early, by the number of
    skips (docs/conventions.md).

    Raises `UserError` for a genotype with `FIXED_REDUCTION`, which the released code
    cannot build.
    """
    if not network.float_head:
        return [0] * network.num_cells
    # The authors' code builds only cells of its own template.
    if network.genotype.reduce == FIXED_REDUCTION:
        raise UserError(
            "config.network.float_head counts convolutions of the authors' cells, and "
            f"{FIXED_REDUCTION!r} is not one; write config.network.float_head=False"
        )

    # (cell, is a skip) of each convolution, in the order of the release's modules.
    convs: list[tuple[int, bool]] = []
    for place in network.places:
        convs += [(place.index, False)] * INPUTS
        if place.reduction and network.skip and place.follows_a_cell:
            convs.append((place.index, True))
        layers = num_convs(network.genotype.cell(place.reduction), place) - INPUTS
        convs += [(place.index, False)] * layers

    # The convolutions that the range does not reach. Skips among them are float in any
    # case and are not counted.
    num_skips = sum(is_skip for _, is_skip in convs)
    dropped = convs[len(convs) - num_skips :]
    return [dropped.count((index, False)) for index in range(network.num_cells)]
