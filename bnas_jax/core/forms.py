"""`FORMS`: how the networks of BNAS, DARTS, SNAS and GDAS differ besides the cells.

A form says what the stem is, how a cell halves an input that is too large, which
poolings have a BN, and what precedes the classifier. The order of BN, convolution and
activation belongs to the scheme (`Float.order`).
"""

import dataclasses

import flax.linen as nn

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.checks import choice
from bnas_jax.core.errors import UserError
from bnas_jax.core.modules import Classifier, FloatConv
from bnas_jax.core.normalization import BatchNorm


class CifarStem(nn.Module):
    """Float BN -> 3x3 convolution to 3C channels -> ReLU.

    It returns its output twice, for both inputs of the first cell: (N, H, W, 3C).
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
    """Float 3x3 convolution to 3C channels -> BN, without ReLU (DARTS's code).

    It returns its output twice, for both inputs of the first cell: (N, H, W, 3C).
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
        bn = BatchNorm(self.arithmetic, name="bn")
        x = bn(conv(images), train=train)
        return x, x


class ImageNetStem(nn.Module):
    """Three float 3x3 convolutions of stride 2.

    It returns the inputs of the first cell at a quarter and an eighth of the image:
    (N, H / 4, W / 4, C) and (N, H / 8, W / 8, C).
    """

    channels: int
    arithmetic: Arithmetic

    @nn.compact
    def __call__(self, images, *, train: bool):
        # To a quarter of the image.
        x = self._conv(self.channels // 2, "conv0")(images)  # (N, H / 2, W / 2, C / 2)
        x = BatchNorm(self.arithmetic, name="bn0")(x, train=train)
        x = self._conv(self.channels, "conv1")(nn.relu(x))  # (N, H / 4, W / 4, C)
        before = BatchNorm(self.arithmetic, name="bn1")(x, train=train)

        # To an eighth. No ReLU follows, since the cells begin with a BN and a sign.
        x = self._conv(self.channels, "conv2")(nn.relu(before))  # (N, H / 8, W / 8, C)
        previous = BatchNorm(self.arithmetic, name="bn2")(x, train=train)
        return before, previous

    def _conv(self, features: int, name: str) -> FloatConv:
        """A 3x3 convolution of stride 2."""
        return FloatConv(
            features=features,
            kernel=3,
            stride=2,
            arithmetic=self.arithmetic,
            name=name,
        )


@dataclasses.dataclass(frozen=True)
class Form:
    """The parts of a network apart from its cells, see `FORMS`.

    stem: the class of the stem's module.
    halved: whether the stem gives the first cell two inputs of different sizes, as if a
        reduction cell lay between them.
    image_stride: the number by which the stem divides the size of images.
    channel_step: the number that the channels must be a multiple of.
    factorized: how a cell halves its first input after a reduction: True by a
        `FactorizedReduce`, False by a 3x3 convolution of stride 2.
    affine_resize: whether the BN of that halving has scale and shift in the final
        network.
    bn_of_pools_in_search: whether a BN follows poolings in the supernet.
    bn_of_pools: whether a BN follows poolings in the final network.
    last_bn: whether BN and ReLU come before the global pooling.
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


# cifar and imagenet follow the code of BNAS (section 5.1); darts, snas and gdas follow
# the code of these searches (docs/networks.md).
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
    """The entry `name` of `FORMS`; raises `UserError` if there is none."""
    choice("config.network.form", name, choices=FORMS)
    return FORMS[name]


def classify(form: Form, x, *, num_classes: int, arithmetic: Arithmetic, train: bool):
    """Logits (N, num_classes) from the last cell's output.

    Call it within a network's `__call__`: the network owns the modules that it makes.

    x: (N, H, W, C).
    """
    # Only GDAS's networks end with a BN and a ReLU.
    if form.last_bn:
        last_bn = BatchNorm(arithmetic, name="last_bn")
        x = nn.relu(last_bn(x, train=train))
    classifier = Classifier(
        num_classes=num_classes, arithmetic=arithmetic, name="classifier"
    )
    return classifier(x)


class AuxiliaryHead(nn.Module):
    """DARTS's auxiliary classifier, which reads the second reduction cell in training.

    It is float and maps (N, 8, 8, C) to logits (N, num_classes): ReLU -> 5x5 average
    pooling of stride 3 -> 1x1 convolution to 128 -> BN -> ReLU -> 2x2 convolution to
    768 -> BN -> ReLU -> linear.

    Raises `UserError` for another size than 8x8, which images of 32x32 give.
    """

    num_classes: int
    arithmetic: Arithmetic

    @nn.compact
    def __call__(self, x, *, train: bool):
        # At this size the pooling and the 2x2 convolution leave a single pixel.
        if x.shape[1:3] != (8, 8):
            raise UserError(
                "the auxiliary head takes 8x8 features, which images of 32x32 pixels "
                f"give; it gets {x.shape[1]}x{x.shape[2]}: write "
                "config.network.auxiliary=False"
            )
        x = nn.avg_pool(nn.relu(x), (5, 5), strides=(3, 3))  # (N, 2, 2, C)

        # Two convolutions, (features, kernel): (N, 2, 2, 128), then (N, 1, 1, 768).
        sizes = ((128, 1), (768, 2))
        for index, (features, kernel) in enumerate(sizes):
            conv = FloatConv(
                features=features,
                kernel=kernel,
                arithmetic=self.arithmetic,
                name=f"conv{index}",
            )
            bn = BatchNorm(self.arithmetic, name=f"bn{index}")
            x = nn.relu(bn(conv(x), train=train))

        classifier = Classifier(
            num_classes=self.num_classes,
            arithmetic=self.arithmetic,
            name="classifier",
        )
        return classifier(x)
