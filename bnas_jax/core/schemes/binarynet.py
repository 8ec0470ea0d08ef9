"""BinaryNet, "Sign" (arXiv 1602.02830): signs of activations and weights, no scale."""

import dataclasses

from bnas_jax.core.schemes.activations import clip
from bnas_jax.core.schemes.latent_rule import LatentRule
from bnas_jax.core.schemes.scheme import Scheme
from bnas_jax.core.schemes.straight_through import closed_clip, straight_through


@dataclasses.dataclass(frozen=True)
class BinaryNet(Scheme):
    """y = conv(sign x, sign W), a whole number.

    (N, H, W, C) with W (kh, kw, ci, co) to (N, H', W', co).

    Gradients: x gets that of sign x times 1[|x| <= 1] (Eq. 4), W that of sign W times
    1[|W| <= 1]. W is clipped to [-1, 1] after each update (Algorithm 1).

    How sure: agrees with a layer of the benchmark BiBench; not checked against the
    authors' code. The paper's order is convolution, pooling, BN, sign, without a ReLU.
    Here the order is that of the other schemes (BN, sign, convolution, ReLU), so that
    networks differ only in the scheme: that is our choice.
    """

    def signs(self, x):
        return straight_through(x, window=closed_clip, sign_of_zero=self.sign_of_zero)

    def weights(self, latent):
        signs = straight_through(
            latent, window=closed_clip, sign_of_zero=self.sign_of_zero
        )
        return signs, ()

    def after(self, sums):
        # No scale: the BN before the next sign normalises the sums.
        return sums

    @property
    def latents(self) -> LatentRule:
        return LatentRule(project=clip)
