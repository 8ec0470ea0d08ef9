"""ReActNet (arXiv 2003.03488): Bi-Real Net with a learned threshold of each sign."""

import dataclasses
from typing import ClassVar

import flax.linen as nn

from bnas_jax.core.schemes.bireal import BiReal


@dataclasses.dataclass(frozen=True)
class ReActNet(BiReal):
    """y = beta * conv(sign(x + b0), sign W): RSign (Eq. 1) and Bi-Real's weights.

    (N, H, W, C) with W (kh, kw, ci, co) to (N, H', W', co). The gradient of the weights
    is Bi-Real's `torch`.

    b0, the parameter `shift` of shape (C,), begins at 0; -b0 is the threshold. The
    gradient with respect to the sign is multiplied by 2 - 2|x + b0| where that is
    positive. It goes to x and, summed over images and pixels, to b0. The shift is there
    with `stage="activations"`, too, the first of the paper's two stages.

    RPReLU, the shifts around a PReLU behind the shortcut (Eq. 2), belongs to ReActNet's
    block (`baselines`). In searched cells the shift alone is learned. The paper's
    distillation from a float network is a setting of the training, `config.teacher`.

    How sure: agrees with the authors' published code. It is not among the methods that
    the BNAS paper compares with.
    """

    weight_gradient: str = "torch"

    # The shift belongs to one convolution.
    batches_edges: ClassVar[bool] = False
    block: ClassVar[str] = "reactnet"
    plain_signs: ClassVar[bool] = False

    # RSign is Bi-Real's sign behind the shift, so that Bi-Real's convolutions do the
    # rest.
    def convolve(self, module, x):
        return super().convolve(module, _shifted(module, x))

    def convolve_float(self, module, x):
        return super().convolve_float(module, _shifted(module, x))


def _shifted(module, x):
    """x + b0 where the signs of x are taken, else x."""
    if not module.binary_input:
        return x
    shape, dtype = x.shape[-1:], module.arithmetic.dtype
    return x + module.param("shift", nn.initializers.zeros, shape, dtype)
