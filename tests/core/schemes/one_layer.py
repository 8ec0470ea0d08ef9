"""A convolution in a scheme by itself, and what it costs."""

import flax.linen as nn

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.convolution import Convolution
from bnas_jax.core.cost import Row, cost
from bnas_jax.core.ops.geometry import square
from bnas_jax.core.schemes import Scheme


def layer(
    scheme: Scheme,
    *,
    features: int,
    kernel: int = 3,
    plain: bool = False,
    stride: int = 1,
    **options,
) -> Convolution:
    geometry = {
        name: options.pop(name) for name in ("groups", "dilation") if name in options
    }
    return Convolution(
        features=features,
        kernel=(kernel, kernel),
        geometry=square(kernel, stride=stride, **geometry),
        scheme=scheme,
        arithmetic=Arithmetic(plain=plain),
        **options,
    )


class _Alone(nn.Module):
    conv: Convolution
    arithmetic: Arithmetic = Arithmetic()

    def __call__(self, images, *, train: bool = False):
        return self.conv(images)


def row_of(conv: Convolution, image_shape: tuple[int, int, int]) -> Row:
    """The convolution's row of the table of costs."""
    (row,) = cost(_Alone(conv), image_shape=image_shape).rows
    return row
