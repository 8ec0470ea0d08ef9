"""Network in Network for CIFAR, in jiecaoyu's form.

Table 6 prints the accuracy of that form with XNOR-Net's rule. Code:
github.com/jiecaoyu/XNOR-Net-PyTorch, CIFAR_10. Its binary layers are BN -> sign ->
dropout -> convolution with bias -> ReLU; in `float` there is no sign. Its average
pooling counts the padding, and its batch norms have an epsilon of 1e-4.

One difference: before each forward pass, the published code clamps the scale parameters
of the binary layers' batch norms to at least 0.01. Here only the value in the forward
pass is clamped, with the same gradient, and the parameter may be smaller.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bnas_jax.baselines.units import check_image_size, convolution
from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.checks import positive, shares
from bnas_jax.core.convolution import Convolution
from bnas_jax.core.errors import UserError
from bnas_jax.core.initializers import bias_init
from bnas_jax.core.networks import NetworkSettings
from bnas_jax.core.normalization import BatchNorm
from bnas_jax.core.ops.geometry import square
from bnas_jax.core.ops.pool import max_pool
from bnas_jax.core.schemes import Scheme
from bnas_jax.core.schemes.activations import activated

# Both as in that code.
EPSILON = 1e-4  # what batch norms add to the variance
LEAST_SCALE = 0.01  # the smallest scale of a binary layer's batch norm


class NinLayer(nn.Module):
    """BN -> sign -> dropout -> convolution with bias -> activation.

    (N, H, W, C) to (N, H, W, features).

    dropout: the share of the signs that become 0 in training.
    """

    features: int
    kernel: int
    scheme: Scheme
    arithmetic: Arithmetic
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, *, train: bool):
        norm = BatchNorm(
            self.arithmetic, epsilon=EPSILON, least_scale=LEAST_SCALE, name="bn"
        )
        x = norm(x, train=train)

        # The convolution of signs. With dropout some are 0, and a convolution of floats
        # multiplies them.
        dropped = train and self.dropout > 0
        conv = Convolution(
            features=self.features,
            kernel=(self.kernel, self.kernel),
            geometry=square(self.kernel),
            scheme=self.scheme,
            arithmetic=self.arithmetic,
            binary_input=not dropped,
            activation=False,
            name="conv",
        )
        if dropped:
            y = self._dropped(conv, x)
        else:
            y = conv(x)

        # The bias is added after all scales, and so is not part of the scheme's
        # convolution.
        fan_in = self.kernel**2 * x.shape[-1]
        shape, dtype = (self.features,), self.arithmetic.dtype
        y = y + self.param("bias", bias_init(fan_in), shape, dtype)
        return self._activated(y)

    def _dropped(self, conv, x):
        """The convolution with dropout after the sign."""
        key = self.make_rng("dropout")
        keep = keep_factors(
            key, self.dropout, shape=x.shape, arithmetic=self.arithmetic
        )
        y = conv(self.scheme.signs(x) * keep)

        # K of Eq. (1), which a convolution of floats leaves out.
        scale = self.scheme.input_scale(x, kernel=conv.kernel, geometry=conv.geometry)
        if scale is None:
            return y
        return y * scale

    def _activated(self, y):
        # A float network has the published order, convolution -> ReLU, whatever its
        # `config.scheme.activation` is.
        if not self.scheme.binary:
            return nn.relu(y)
        return activated(y, self.scheme.activation, arithmetic=self.arithmetic)


def keep_factors(
    key, rate: float, shape: tuple[int, ...], *, arithmetic: Arithmetic
) -> jax.Array:
    """Dropout: 0 with probability `rate`, else 1 / (1 - rate).

    The factors of an example do not depend on how many devices `Arithmetic.batch_axis`
    divides the batch over.

    shape: (N, ...) of the factors.
    """
    # The numbers of this device's examples in the whole batch, (N,).
    examples = jnp.arange(shape[0])
    if arithmetic.batch_axis:
        examples += jax.lax.axis_index(arithmetic.batch_axis) * shape[0]

    # Each example has a key from its number.
    def drawn(example):
        key_of_example = jax.random.fold_in(key, example)
        return jax.random.bernoulli(key_of_example, p=1 - rate, shape=shape[1:])

    keep = jax.vmap(drawn)(examples)
    return keep.astype(arithmetic.dtype) / (1 - rate)


class Nin(nn.Module):
    """`apply(variables, images, train=False)`, NHWC images to logits (N, num_classes).

    In training with dropout it needs the rng `dropout`.

    widths: the channels of the second convolution are `widths[1]`, those of the third
        `widths[2]`, those of all others `widths[0]`.
    dropout: the share of signs that become 0 before the two large kernels.
    """

    widths: tuple[int, int, int]
    dropout: float
    num_classes: int
    scheme: Scheme
    arithmetic: Arithmetic = Arithmetic()

    @nn.compact
    def __call__(self, images, *, train: bool = False):
        check_image_size(images.shape, 2)
        common: dict[str, Any] = {"scheme": self.scheme, "arithmetic": self.arithmetic}
        float_conv = {**common, "binary": False, "bias": True}

        # The first convolution, float: (N, H, W, wide).
        wide, _, _ = self.widths
        x = images.astype(self.arithmetic.dtype)
        stem = convolution(wide, kernel=5, name="stem", **float_conv)
        x = self._plain_bn("stem_bn")(stem(x), train=train)
        x = nn.relu(x)

        # The layers. The image is halved before the second and before the third block.
        for index, layer in enumerate(self._layers(common)):
            if index == 2:
                x = max_pool(x, stride=2)
            if index == 5:
                # Flax's pooling counts the padding, as that code does;
                # `ops.pool.avg_pool` does not.
                x = nn.avg_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
            x = layer(x, train=train)

        # A float 1x1 convolution to the classes, averaged over the image.
        x = self._plain_bn("bn")(x, train=train)
        classifier = convolution(
            self.num_classes, kernel=1, name="classifier", **float_conv
        )
        # (N, H / 4, W / 4, classes)
        scores = nn.relu(classifier(x)).astype(self.arithmetic.dtype)
        return jnp.mean(scores, axis=(1, 2))

    def _layers(self, common: dict[str, Any]) -> list[NinLayer]:
        """The binary layers of three blocks.

        A block is a convolution with a large kernel and two 1x1 convolutions. The first
        convolution of the network is the stem, the last one is the classifier.
        """
        wide, second, third = self.widths
        return [
            NinLayer(second, kernel=1, name="layer0", **common),
            NinLayer(third, kernel=1, name="layer1", **common),
            NinLayer(wide, kernel=5, dropout=self.dropout, name="layer2", **common),
            NinLayer(wide, kernel=1, name="layer3", **common),
            NinLayer(wide, kernel=1, name="layer4", **common),
            NinLayer(wide, kernel=3, dropout=self.dropout, name="layer5", **common),
            NinLayer(wide, kernel=1, name="layer6", **common),
        ]

    def _plain_bn(self, name: str) -> BatchNorm:
        return BatchNorm(self.arithmetic, affine=False, epsilon=EPSILON, name=name)


@dataclasses.dataclass(frozen=True)
class NinSettings(NetworkSettings):
    """Network in Network.

    widths: the channels of the second convolution are `widths[1]`, those of the third
        `widths[2]`, those of all others `widths[0]`.
    dropout: the share of signs that become 0 before the two large kernels.
    """

    widths: tuple[int, ...] = (192, 160, 96)
    dropout: float = 0.5

    def __post_init__(self):
        positive("config.network", self, "widths")
        if len(self.widths) != 3:
            raise UserError(
                "config.network.widths must be three numbers such as (192,160,96), "
                f"got {self.widths}"
            )
        shares("config.network", self, "dropout")

    def build(self, *, num_classes: int, scheme: Scheme, arithmetic: Arithmetic) -> Nin:
        """A `Nin`.

        Raises `UserError` for dropout with signs that have parameters, and in the first
        of two stages.
        """
        # Dropout comes between the sign and the convolution, so that the signs must
        # come from `Scheme.signs`, without parameters.
        if self.dropout > 0 and not (scheme.plain_signs and scheme.stage == "all"):
            raise UserError(
                "config.network.dropout sets signs to 0, which a scheme whose signs "
                "have parameters and config.scheme.stage=activations do not allow; "
                "write config.network.dropout=0"
            )
        wide, second, third = self.widths
        return Nin(
            widths=(wide, second, third),
            dropout=self.dropout,
            num_classes=num_classes,
            scheme=scheme,
            arithmetic=arithmetic,
        )
