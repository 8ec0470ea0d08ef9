"""The scheme without binarization.

It gives the float twin of a binary network, and the float networks of DARTS, SNAS and
GDAS.
"""

import dataclasses
from typing import ClassVar

from bnas_jax.core.checks import choice
from bnas_jax.core.errors import UserError
from bnas_jax.core.schemes.scheme import BN_FIRST, ORDERS, RELU_FIRST, Scheme


@dataclasses.dataclass(frozen=True)
class Float(Scheme):
    """Float activations and weights, with 32-bit kernels.

    order: `bn_first`, BN -> convolution -> activation, is the twin of a binary network;
        `relu_first` is ReLU -> convolution -> BN, as in the code of DARTS, SNAS and
        GDAS.
    bias: a bias in convolutions whose BN has no scale and shift, as in GDAS's search.
    """

    order: str = BN_FIRST
    bias: bool = False

    # Not a setting here: there is nothing to binarize in stages.
    stage: str = dataclasses.field(default="all", metadata={"setting": False})

    binary: ClassVar[bool] = False

    def __post_init__(self):
        super().__post_init__()
        choice("config.scheme.order", self.order, choices=ORDERS)
        if self.order == RELU_FIRST and self.activation != "relu":
            raise UserError(
                f"config.scheme.order={RELU_FIRST} has a ReLU in front of each "
                f"convolution; leave config.scheme.activation={self.activation} out"
            )

    # `convolve_float` convolves the values that this returns.
    def signs(self, x):
        return x
