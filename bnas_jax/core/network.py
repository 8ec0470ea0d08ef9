"""The final network: the searched cell, stacked to a budget, in its CIFAR and its ImageNet form (section 5.1, Table 5)."""

import math

import flax.linen as nn
import jax

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.cell import FinalCell, drop_path, num_convs
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import INPUTS, Genotype, edges
from bnas_jax.core.modules import BatchNorm, Classifier, FloatConv
from bnas_jax.core.schemes import Scheme, Xnor
from bnas_jax.core.stack import Place, check_image_size, stack


class CifarStem(nn.Module):
    """BN -> 3x3 convolution to 3C channels -> ReLU; both inputs of the first cell. Float."""

    channels: int
    arithmetic: Arithmetic

    @nn.compact
    def __call__(self, images, *, train: bool):
        x = BatchNorm(self.arithmetic, name="bn")(images, train=train)
        x = FloatConv(features=3 * self.channels, kernel=3, arithmetic=self.arithmetic, name="conv")(x)
        x = nn.relu(x)
        return x, x


class ImageNetStem(nn.Module):
    """Three float 3x3 convolutions of stride 2: outputs at a quarter and an eighth of the image (methods.md D)."""

    channels: int
    arithmetic: Arithmetic

    @nn.compact
    def __call__(self, images, *, train: bool):
        x = self._conv(self.channels // 2, "conv0")(images)
        x = nn.relu(BatchNorm(self.arithmetic, name="bn0")(x, train=train))
        x = self._conv(self.channels, "conv1")(x)
        before = BatchNorm(self.arithmetic, name="bn1")(x, train=train)
        x = self._conv(self.channels, "conv2")(nn.relu(before))
        return before, BatchNorm(self.arithmetic, name="bn2")(x, train=train)

    def _conv(self, features: int, name: str) -> FloatConv:
        return FloatConv(features=features, kernel=3, stride=2, arithmetic=self.arithmetic, name=name)


STEMS: dict[str, type[CifarStem | ImageNetStem]] = {"cifar": CifarStem, "imagenet": ImageNetStem}


class Network(nn.Module):
    """The final network: `apply(variables, images, train=False)`, NHWC images to logits (N, num_classes).

    num_cells, channels: Table 5; channels are those of the first cell's nodes. form: "cifar" or "imagenet", which differ in
    the stem. skip: the inter-cell skips; reduction_skip: their convolution, see `cell.ReductionSkip`. float_head: leave the
    last convolutions float, as the released code does, see `float_convs`.

    Example: `Network(genotype, num_cells=20, channels=36, num_classes=10)` is BNAS-A.
    """

    genotype: Genotype
    num_cells: int
    channels: int
    num_classes: int
    form: str = "cifar"
    skip: bool = True
    reduction_skip: str = "binary_bn"
    float_head: bool = False
    scheme: Scheme = Xnor()
    arithmetic: Arithmetic = Arithmetic()

    @nn.compact
    def __call__(self, images, *, train: bool = False, drop_path_rate=None):
        """drop_path_rate: None or a scalar, of use in training alone; needs the rng `drop_path`."""
        images = images.astype(self.arithmetic.dtype)
        factors: list | jax.Array = [None] * self.num_cells
        if train and drop_path_rate is not None:
            key = self.make_rng("drop_path")
            factors = drop_path(
                key,
                drop_path_rate,
                cells=self.num_cells,
                layers=max(self._num_layers(place) for place in self.places),
                batch=images.shape[0],
                arithmetic=self.arithmetic,
            )

        if self.form not in STEMS:
            raise UserError(f"form must be one of {', '.join(STEMS)}, got {self.form!r}")
        stem = STEMS[self.form]
        before, previous = stem(channels=self.channels, arithmetic=self.arithmetic, name="stem")(images, train=train)
        check_image_size(previous.shape, self.num_cells)

        left_float = float_convs(self)
        for place in self.places:
            cell = FinalCell(
                cell=self.genotype.cell(place.reduction),
                place=place,
                scheme=self.scheme,
                arithmetic=self.arithmetic,
                skip=self.skip,
                reduction_skip=self.reduction_skip,
                float_convs=left_float[place.index],
                affine_resize=self.form == "imagenet",
                name=place.name,
            )
            output = cell(before, previous, train=train, factors=factors[place.index])
            before, previous = previous, output
        return Classifier(num_classes=self.num_classes, arithmetic=self.arithmetic, name="classifier")(previous)

    def _num_layers(self, place: Place) -> int:
        return len(edges(self.genotype.cell(place.reduction)))

    @property
    def channel_step(self) -> int:
        """Of which number the channels are a multiple: the first convolution of the ImageNet stem has half of them."""
        of_stem = 2 if self.form == "imagenet" else 1
        return math.lcm(of_stem, self.scheme.width_step)

    @property
    def places(self) -> tuple[Place, ...]:
        """The plan of the stack. ImageNet's stem hands the first cell two sizes, as if a reduction lay between them."""
        return stack(self.num_cells, self.channels, halved=self.form == "imagenet")


def float_convs(network: Network) -> list[int]:
    """For each cell, how many of its last convolutions the released code leaves float by an index error (`float_head`).

    It counts the convolutions that it means to binarize but walks over all of them, the skips' included, so the last ones
    fall out: as many as there are skips (methods.md D, "Binarized set").
    """
    if not network.float_head:
        return [0] * network.num_cells
    convs: list[tuple[int, bool]] = []  # (cell, is a skip) of each convolution, in the order of the release's modules
    for place in network.places:
        convs += [(place.index, False)] * INPUTS
        if place.reduction and network.skip and place.follows_a_cell:
            convs.append((place.index, True))
        layers = num_convs(network.genotype.cell(place.reduction), place) - INPUTS
        convs += [(place.index, False)] * layers
    num_skips = sum(is_skip for _, is_skip in convs)
    dropped = convs[len(convs) - num_skips :]
    return [dropped.count((index, False)) for index in range(network.num_cells)]
