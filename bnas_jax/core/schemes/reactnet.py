"""ReActNet (arXiv 2003.03488): Bi-Real Net with learned thresholds of the signs."""

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
    positive, else by 0. It goes to x and, summed over images and pixels, to b0. The
    first of the paper's two stages, `stage="activations"`, has the shift, too.

    RPReLU, a PReLU between two shifts after the shortcut (Eq. 2), belongs to ReActNet's
    block (`baselines`), so that searched cells have only b0. The paper's distillation
    from a float network is a setting of the training, `config.teacher`.

    How sure: agrees with the authors' published code. The BNAS paper does not compare
    with ReActNet.
    """

    weight_gradient: str = "torch"

    # Each convolution has a shift of its own.
    batches_edges: ClassVar[bool] = False
    block: ClassVar[str] = "reactnet"
    plain_signs: ClassVar[bool] = False

    # RSign is the sign after the shift: Bi-Real's methods do the rest.
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
