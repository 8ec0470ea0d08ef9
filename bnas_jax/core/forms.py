"""What networks of cells differ in beside their cells: `FORMS`, the one table of it.

A form is the stem, what brings a larger input to a cell's size, which poolings have a
BN, and what comes before the classifier. The order of BN, convolution and activation is
the scheme's (`Float.order`).
"""

import dataclasses

import flax.linen as nn

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.errors import UserError
from bnas_jax.core.modules import Classifier, FloatConv
from bnas_jax.core.normalization import BatchNorm


class CifarStem(nn.Module):
    """BN -> 3x3 convolution to 3C channels -> ReLU; both inputs of the first cell.

    Float.
    """

    channels: int
    arithmetic: Arithmetic

    @nn.compact
    def __call__(self, images, *, train: bool):
        x = BatchNorm(self.arithmetic, name="bn")(images, train=train)
        conv = FloatConv(
            features=3 * self.channels,
            kernel=3,
            arithmetic=self.arithmetic,
            name="conv",
        )
        x = nn.relu(conv(x))
        return x, x


class DartsStem(nn.Module):
    """3x3 convolution to 3C channels -> BN, without ReLU; both inputs of the first
    cell.

    Float (DARTS's code).
    """

    channels: int
    arithmetic: Arithmetic

    @nn.compact
    def __call__(self, images, *, train: bool):
        conv = FloatConv(
            features=3 * self.channels,
            kernel=3,
            arithmetic=self.arithmetic,
            name="conv",
        )
        x = BatchNorm(self.arithmetic, name="bn")(conv(images), train=train)
        return x, x


class ImageNetStem(nn.Module):
    """Three float 3x3 convolutions of stride 2: outputs at a quarter and an eighth of
    the image (docs/conventions.md).
    """

    channels: int
    arithmetic: Arithmetic

    @nn.compact
    def __call__(self, images, *, train: bool):
        # To a quarter of the image.
        x = self._conv(self.channels // 2, "conv0")(images)
        x = BatchNorm(self.arithmetic, name="bn0")(x, train=train)
        x = self._conv(self.channels, "conv1")(nn.relu(x))
        before = BatchNorm(self.arithmetic, name="bn1")(x, train=train)

        # To an eighth. No ReLU follows: the cells begin with a BN and a sign.
        x = self._conv(self.channels, "conv2")(nn.relu(before))
        previous = BatchNorm(self.arithmetic, name="bn2")(x, train=train)
        return before, previous

    def _conv(self, features: int, name: str) -> FloatConv:
        return FloatConv(
            features=features,
            kernel=3,
            stride=2,
            arithmetic=self.arithmetic,
            name=name,
        )


@dataclasses.dataclass(frozen=True)
class Form:
    """What differs between networks of cells, see `FORMS`.

    stem: its module. halved: whether it gives the first cell two sizes, as if a
    reduction lay between them.
    image_stride: by which number the stem divides the size of images.
    channel_step: of which number the channels are a multiple.
    factorized: whether the larger of a cell's inputs is halved by a `FactorizedReduce`,
    else by a 3x3 convolution of stride 2.
    affine_resize: whether the BN of that has scale and shift in the final network.
    bn_of_pools_in_search, bn_of_pools: whether poolings have a BN behind them in the
    search's network and in the final one.
    last_bn: whether there are BN and ReLU before the global pooling.
    """

    stem: type[CifarStem | DartsStem | ImageNetStem]
    halved: bool = False
    image_stride: int = 1
    channel_step: int = 1
    factorized: bool = False
    affine_resize: bool = True
    bn_of_pools_in_search: bool = True
    bn_of_pools: bool = False
    last_bn: bool = False


# cifar, imagenet: the BNAS authors' code (section 5.1). darts, snas, gdas: the codes of
# these searches (docs/searchers.md).
FORMS: dict[str, Form] = {
    "cifar": Form(stem=CifarStem, affine_resize=False),
    "imagenet": Form(stem=ImageNetStem, halved=True, image_stride=8, channel_step=2),
    "darts": Form(stem=DartsStem, factorized=True),
    "snas": Form(stem=DartsStem, factorized=True, bn_of_pools=True),
    "gdas": Form(
        stem=DartsStem, factorized=True, bn_of_pools_in_search=False, last_bn=True
    ),
}


def form_of(name: str) -> Form:
    """The entry of `FORMS`; `UserError` for a name without one."""
    if name not in FORMS:
        raise UserError(
            f"config.network.form must be one of {', '.join(FORMS)}, got {name!r}"
        )
    return FORMS[name]


def classify(form: Form, x, *, num_classes: int, arithmetic: Arithmetic, train: bool):
    """Logits (N, num_classes) from the last cell's output, (N, H, W, C), by modules of
    the network that calls it.
    """
    # GDAS's networks alone end like that.
    if form.last_bn:
        x = nn.relu(BatchNorm(arithmetic, name="last_bn")(x, train=train))
    classifier = Classifier(
        num_classes=num_classes, arithmetic=arithmetic, name="classifier"
    )
    return classifier(x)


class AuxiliaryHead(nn.Module):
    """DARTS's second classifier, on the output of the second reduction cell in
    training: (N, 8, 8, C) to logits.

    Float.

    ReLU -> 5x5 average pooling of stride 3 -> 1x1 convolution to 128 -> BN -> ReLU ->
    2x2 convolution to 768 -> BN -> ReLU -> linear. `UserError` for another size than
    8x8, which images of 32x32 give.
    """

    num_classes: int
    arithmetic: Arithmetic

    @nn.compact
    def __call__(self, x, *, train: bool):
        # The pooling and the 2x2 convolution leave a single pixel of that size.
        if x.shape[1:3] != (8, 8):
            raise UserError(
                "the auxiliary head takes 8x8 features, which images of 32x32 pixels "
                "give; it gets"
                f" {x.shape[1]}x{x.shape[2]}: write config.network.auxiliary=False"
            )
        x = nn.avg_pool(nn.relu(x), (5, 5), strides=(3, 3))  # (N, 2, 2, C)
        sizes = ((128, 1), (768, 2))  # (features, kernel) of both convolutions
        for index, (features, kernel) in enumerate(sizes):
            conv = FloatConv(
                features=features,
                kernel=kernel,
                arithmetic=self.arithmetic,
                name=f"conv{index}",
            )
            x = BatchNorm(self.arithmetic, name=f"bn{index}")(conv(x), train=train)
            x = nn.relu(x)
        classifier = Classifier(
            num_classes=self.num_classes,
            arithmetic=self.arithmetic,
            name="classifier",
        )
        return classifier(x)
