"""Bi-Real Net (arXiv 1808.00278): a triangular straight-through window."""

import dataclasses
from typing import ClassVar

import jax

from bnas_jax.core.checks import choice
from bnas_jax.core.schemes.scales import inverse
from bnas_jax.core.schemes.scheme import Scheme
from bnas_jax.core.schemes.straight_through import (
    closed_clip,
    straight_through,
    triangle,
)
from bnas_jax.core.schemes.xnor import beta

WEIGHT_GRADIENTS = ("paper", "torch")


@dataclasses.dataclass(frozen=True)
class BiReal(Scheme):
    """y = beta * conv(sign x, sign W), with beta = mean |W| of each output channel.

    (N, H, W, C) with W (kh, kw, ci, co) to (N, H', W', co). beta, (co,), is taken as a
    constant. The gradient with respect to sign x is multiplied by 2 - 2|x| where
    |x| < 1, else by 0 (section 3.2). W is not projected. No activation follows by
    default, as in the paper's blocks, whose nonlinearity is the sign.

    weight_gradient: the rule for the gradient with respect to W. With G the gradient
    with respect to beta * sign(W):

    - `paper`: beta * 1[|W| <= 1] * G, as in section 3.3.
    - `torch`: 1[|W| <= 1] * G, as in the authors' PyTorch code. (Their Caffe code has
      neither beta nor the mask.) It is 0 where beta is 0, for a kernel of zeros.

    How sure: both rules agree with published code, `torch` with that of the authors.
    The block, and its float shortcut where it is strided, belong to the networks
    (`baselines`).
    """

    activation: str = "none"
    weight_gradient: str = "paper"

    # Its shortcuts carry real values around each convolution. A binary convolution in
    # the shortcut would lose them.
    block: ClassVar[str] = "bireal"
    float_shortcut: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        choice(
            "config.scheme.weight_gradient",
            self.weight_gradient,
            choices=WEIGHT_GRADIENTS,
        )

    def signs(self, x):
        return straight_through(x, window=triangle, sign_of_zero=self.sign_of_zero)

    def weights(self, latent):
        # `after` multiplies by beta, so that the gradient with respect to the signs is
        # beta * G. The window of `torch` divides by beta.
        window = closed_clip
        if self.weight_gradient == "torch":
            window = clip_without_beta
        signs = straight_through(latent, window=window, sign_of_zero=self.sign_of_zero)

        # beta without a gradient, (co,).
        scale = jax.lax.stop_gradient(beta(latent))
        return signs, (scale,)

    def after(self, sums, beta):
        return sums * beta


def clip_without_beta(latent):
    """1[|W| <= 1] / beta, (kh, kw, ci, co); 0 where beta is 0.

    It divides the gradient with respect to sign W by the beta of `after`.
    """
    return closed_clip(latent) * inverse(beta(latent))
