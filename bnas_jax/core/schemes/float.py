"""No binarization: the float twin of a network."""

import dataclasses
from typing import ClassVar

from bnas_jax.core.schemes.scheme import Scheme


@dataclasses.dataclass(frozen=True)
class Float(Scheme):
    """Float activations and weights in the same network: BN -> convolution -> activation, with 32-bit kernels."""

    # There is nothing to binarize in stages.
    stage: str = dataclasses.field(default="all", metadata={"setting": False})

    binary: ClassVar[bool] = False

    def signs(self, x):
        return x
