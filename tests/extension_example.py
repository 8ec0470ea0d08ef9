"""An extension, for `--extensions=tests/extension_example.py`: a layer type, a scheme,
a searcher and a network.

test_extending.py runs it. Nothing of the package knows it.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax

import bnas_jax as bnas
from bnas_jax.core.modules import BinaryConv, Classifier, FloatConv


# A layer type: a binary convolution of 1x1, and a shift of each channel that is
# learned.
class ShiftedConv(nn.Module):
    features: int
    stride: int
    scheme: bnas.Scheme
    arithmetic: bnas.Arithmetic
    binary_weights: bool
    affine: bool

    @nn.compact
    def __call__(self, x, *, train: bool):
        conv = BinaryConv(
            features=self.features,
            kernel=1,
            stride=self.stride,
            scheme=self.scheme,
            arithmetic=self.arithmetic,
            binary_weights=self.binary_weights,
            affine=self.affine,
            name="conv",
        )
        return conv(x, train=train) + self.param(
            "shift", nn.initializers.zeros, (self.features,), self.arithmetic.dtype
        )


class ShiftedConvType:
    learnable = True
    batching = None

    def num_convs(self, stride):
        return 1

    def module(self, *, search, **fields):
        return ShiftedConv(affine=not search, **fields)


bnas.LAYERS["shifted_conv_1x1"] = ShiftedConvType()


# A scheme: XNOR's, times a gain that is learned for each output channel. gain: where it
# begins.
@dataclasses.dataclass(frozen=True)
class Gain(bnas.Xnor):
    gain: float = 1.0
    batches_edges: ClassVar[bool] = False

    def parameters(self, module, output_shape):
        start = nn.initializers.constant(self.gain)
        return (
            module.param("gain", start, output_shape[-1:], module.arithmetic.dtype),
        )

    def after(self, sums, beta, gain):
        return sums * beta * gain


bnas.SCHEMES["gain"] = Gain


# A searcher: mixtures that become sharper from epoch to epoch. start: their first
# temperature.
@dataclasses.dataclass(frozen=True)
class Sharpen(bnas.Searcher):
    start: float = 2.0

    def weights(self, alphas, key, progress):
        temperature = 1.0
        if progress is not None:
            temperature = self.start ** (1 - progress.epoch / progress.num_epochs)
        return {
            name: jax.nn.softmax(alpha / temperature) for name, alpha in alphas.items()
        }


bnas.SEARCHERS["sharpen"] = Sharpen


# A network: a float convolution and binary ones that halve the image, without cells.
class Chain(nn.Module):
    widths: tuple[int, ...]
    num_classes: int
    scheme: bnas.Scheme
    arithmetic: bnas.Arithmetic

    @nn.compact
    def __call__(self, images, *, train: bool = False):
        common = {"kernel": 3, "arithmetic": self.arithmetic}
        x = FloatConv(features=self.widths[0], name="stem", **common)(images)
        for index, width in enumerate(self.widths):
            conv = BinaryConv(
                features=width,
                stride=2,
                scheme=self.scheme,
                name=f"conv{index}",
                **common,
            )
            x = conv(x, train=train)
        return Classifier(
            num_classes=self.num_classes, arithmetic=self.arithmetic, name="classifier"
        )(x)


@dataclasses.dataclass(frozen=True)
class ChainSettings(bnas.NetworkSettings):
    widths: tuple[int, ...] = (4, 8)

    def build(self, *, num_classes, scheme, arithmetic):
        return Chain(
            widths=self.widths,
            num_classes=num_classes,
            scheme=scheme,
            arithmetic=arithmetic,
        )


bnas.NETWORKS["chain"] = ChainSettings
