"""The small networks of Tables 1 and 12: three layers of one type, three dense layers.

A max-pooling follows each of the first three. The paper does not state their
sizes; they are those of LeNet-5 with three layers (docs/networks.md). Under a binary
scheme the first three are binary, the dense layers are float.
"""

import dataclasses

import flax.linen as nn

from bnas_jax.baselines.units import check_image_size
from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.checks import choice, positive
from bnas_jax.core.initializers import bias_init, uniform_fan_in
from bnas_jax.core.layers import LAYERS
from bnas_jax.core.networks import NetworkSettings
from bnas_jax.core.schemes import Scheme


class Dense(nn.Module):
    """A float linear layer, (N, C) to (N, features)."""

    features: int
    arithmetic: Arithmetic

    @nn.compact
    def __call__(self, x):
        inputs, dtype = x.shape[-1], self.arithmetic.dtype
        kernel = self.param("kernel", uniform_fan_in, (inputs, self.features), dtype)
        y = x @ kernel  # (N, features)
        return y + self.param("bias", bias_init(inputs), (self.features,), dtype)

    def macs(self, x, y) -> tuple[int, int]:
        """(binary, float) multiply-accumulates of one image."""
        return 0, x.shape[-1] * y.shape[-1]


class SmallCnn(nn.Module):
    """`apply(variables, images, train=False)`, NHWC images to logits (N, num_classes).

    See `SmallCnnSettings`.
    """

    layer_type: str
    widths: tuple[int, ...]
    dense: tuple[int, ...]
    num_classes: int
    scheme: Scheme
    arithmetic: Arithmetic = Arithmetic()

    @nn.compact
    def __call__(self, images, *, train: bool = False):
        # A max-pooling follows each layer.
        check_image_size(images.shape, len(self.widths))
        x = images.astype(self.arithmetic.dtype)

        # The layers, each at half the size of the one before.
        kind = LAYERS[self.layer_type]
        for index, width in enumerate(self.widths):
            layer = kind.module(
                features=width,
                stride=1,
                scheme=self.scheme,
                arithmetic=self.arithmetic,
                search=False,
                binary_weights=True,  # the scheme `float` leaves them float anyway
                name=f"layer{index}",
            )
            y = layer(x, train=train)  # (N, H, W, width)
            x = nn.max_pool(y, (2, 2), strides=(2, 2))

        # The dense layers, on all pixels instead of their mean, as in LeNet-5.
        x = x.reshape(x.shape[0], -1)  # (N, H' * W' * C)
        for index, features in enumerate(self.dense):
            dense = Dense(features, self.arithmetic, name=f"dense{index}")
            x = nn.relu(dense(x))
        return Dense(self.num_classes, self.arithmetic, name="classifier")(x)


@dataclasses.dataclass(frozen=True)
class SmallCnnSettings(NetworkSettings):
    """The network of Tables 1 and 12.

    layer_type: one of `core.layers.LAYERS` that has weights.
    widths: the channels of the layers.
    dense: the outputs of the dense layers but the last, which has one for each class.
    """

    layer_type: str = "bin_conv_3x3"
    widths: tuple[int, ...] = (6, 16, 32)
    dense: tuple[int, ...] = (120, 84)

    def __post_init__(self):
        positive("config.network", self, "widths", "dense")
        # Pooling alone would have nothing to binarize.
        learnable = [name for name, layer in LAYERS.items() if layer.learnable]
        choice("config.network.layer_type", self.layer_type, choices=learnable)

    def build(
        self, *, num_classes: int, scheme: Scheme, arithmetic: Arithmetic
    ) -> SmallCnn:
        """A `SmallCnn`."""
        return SmallCnn(
            layer_type=self.layer_type,
            widths=self.widths,
            dense=self.dense,
            num_classes=num_classes,
            scheme=scheme,
            arithmetic=arithmetic,
        )
