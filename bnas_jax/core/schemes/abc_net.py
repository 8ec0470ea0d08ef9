"""ABC-Net, "Clip + Scale" (arXiv 1711.11294).

Weights and activations are each approximated by several binary bases.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bnas_jax.core.checks import positive
from bnas_jax.core.errors import UserError
from bnas_jax.core.ops.conv import float_conv
from bnas_jax.core.schemes.binary_conv import convolve_module, finish
from bnas_jax.core.schemes.scheme import Scheme
from bnas_jax.core.schemes.straight_through import straight_through

# This share of the number of weights is added to the diagonal of the normal equations,
# which are singular where two bases are equal.
RIDGE = 1e-6


@dataclasses.dataclass(frozen=True)
class AbcNet(Scheme):
    """y = sum over n and m of beta_n * alpha_m * conv(A_n, B_m).

    (N, H, W, C) with W (kh, kw, ci, co) to (N, H', W', co).

    The bases of the weights, m from 1 to M, are B_m = sign(W - mean W + u_m * std W),
    (kh, kw, ci, co). The u_m are evenly spaced from -1 to 1; with M = 1, u_1 is 0. Mean
    and (biased) deviation are those of the whole kernel. alpha, (M,), minimises
    |W - sum of alpha_m B_m|^2; a kernel of zeros has alpha 0.

    The bases of the activations, n from 1 to N, are A_n = 1 where x + v_n >= 0.5, else
    -1. v is the parameter `shift`, beta the parameter `beta`, (N,) each; beta begins at
    1. Inputs that stay float are convolved with the sum of alpha_m B_m.

    Gradients: W gets the gradient with respect to each B_m unchanged; mean, deviation
    and alpha are constants. The gradient passes through A_n where 0 <= x + v_n <= 1, to
    x and, summed, to v. beta has its ordinary gradient. W is not projected.

    weight_bases: M.
    activation_bases: N.
    per_channel: fit alpha for each output channel, (co, M).
    shift, spread: the v_n begin evenly spaced from shift - spread to shift + spread;
        with N = 1, v_1 begins at `shift`. Equal v_n would stay equal, because their
        gradients would be equal.

    How sure: the formulas follow a third party's notebook, which fits alpha by gradient
    descent; the bases agree with the code of another third party. `spread` is our
    choice: in the notebook it is 0. The BNAS paper compares with M = N = 1. ABC-Net's
    paper starts from a trained float network.
    """

    weight_bases: int = 1
    activation_bases: int = 1
    per_channel: bool = False
    shift: float = 0.0
    spread: float = 0.5

    # The bases add channels and images to a convolution, and the shifts are parameters
    # of a single convolution.
    batches_edges: ClassVar[bool] = False
    plain_signs: ClassVar[bool] = False

    def __post_init__(self):
        super().__post_init__()
        positive("config.scheme", self, "weight_bases", "activation_bases")
        if not 0 <= self.spread < np.inf:
            raise UserError(
                f"config.scheme.spread must be 0 or more, got {self.spread}"
            )
        if not np.isfinite(self.shift):
            raise UserError(
                f"config.scheme.shift must be a finite number, got {self.shift}"
            )

    def kernel(self, module, x):
        """The bases as output channels, (kh, kw, ci, co * M)."""
        bases, alpha = self.bases(module.latent(x))  # (kh, kw, ci, co, M)
        # The basis is the fastest index of the output channels, so that the channels of
        # a group stay contiguous.
        return bases.reshape(*bases.shape[:3], -1), (alpha,)

    def convolve(self, module, x):
        """All pairs of bases as one convolution.

        Each basis of the activations is an image of its own, each basis of the weights
        an output channel of its own.
        """
        w, (alpha,) = module.binarized(x)
        x, beta = self._activations(module, x)
        return convolve_module(module, x, w=w, operands=(alpha, beta))

    def convolve_float(self, module, x):
        """The bases of the activations with a float kernel."""
        kernel = module.float_kernel(x)
        x, beta = self._activations(module, x)  # (N * images, H, W, C)
        y = float_conv(
            x,
            kernel,
            geometry=module.geometry,
            arithmetic=module.arithmetic,
        )
        # The float kernel counts as a single basis of the weights whose alpha is 1.
        alpha = jnp.ones((1, 1), y.dtype)
        y = self.after(y, alpha=alpha, beta=beta)
        return finish(self, y, scale=None, activation=module.activates_sums)

    def _activations(self, module, x):
        """(A_1 to A_N on the batch axis, (N * images, H, W, C); beta, (N,)).

        If x stays float, it is (x, (1,)).
        """
        dtype = module.arithmetic.dtype
        if not module.binary_input:
            return x, jnp.ones((1,), dtype)

        # v and beta, (N,) each.
        shift = module.param("shift", self._first_shifts, dtype)
        ones = nn.initializers.ones
        beta = module.param("beta", ones, (self.activation_bases,), dtype)

        # A_n is 1 where x + v_n - 0.5 >= 0.
        real = jnp.concatenate([x + v - 0.5 for v in shift])
        signs = straight_through(real, window=half_clip, sign_of_zero=self.sign_of_zero)
        return signs, beta

    def bases(self, latent):
        """(B_1 to B_M, (kh, kw, ci, co, M); alpha, (1 or co, M))."""
        # B_m = sign(W - mean W + u_m * std W), with mean and deviation as constants.
        constant = jax.lax.stop_gradient(latent)
        offsets = offsets_of(self.weight_bases) * jnp.std(constant)  # (M,)
        centred = latent - jnp.mean(constant)
        real = centred[..., None] + offsets.astype(latent.dtype)  # (kh, kw, ci, co, M)
        bases = straight_through(
            real, window=everywhere, sign_of_zero=self.sign_of_zero
        )

        # alpha by least squares, also a constant.
        constant_bases = jax.lax.stop_gradient(bases)
        alpha = fit(constant, constant_bases, per_channel=self.per_channel)
        return bases, alpha

    def after(self, sums, alpha, beta):
        """The sum over all pairs of bases, (images, H', W', co).

        sums: (N * images, H', W', co * M).
        alpha: (1 or co, M).
        beta: (N,).
        """
        _, height, width, channels = sums.shape
        bases = alpha.shape[-1]
        # (N, images, H', W', co, M)
        sums = sums.reshape(len(beta), -1, height, width, channels // bases, bases)

        # The sum over m, weighted by alpha, then the sum over n, weighted by beta.
        over_weights = jnp.sum(sums * alpha, axis=-1)  # (N, images, H', W', co)
        return jnp.sum(over_weights * beta[:, None, None, None, None], axis=0)

    def cost(self, row, module):
        """The row with the products of all pairs of bases and the bits of all B_m.

        Binary inputs multiply the products by N, binary weights products and bits by M.
        """
        weight_bases = self.weight_bases if module.has_latent else 1
        activation_bases = self.activation_bases if module.binary_input else 1
        pairs = weight_bases * activation_bases
        return dataclasses.replace(
            row,
            binary_macs=row.binary_macs * pairs,
            float_macs=row.float_macs * pairs,
            binary_params=row.binary_params * weight_bases,
        )

    def _first_shifts(self, key, dtype):
        """The initial v, (N,)."""
        del key
        shifts = self.shift + self.spread * offsets_of(self.activation_bases)
        return shifts.astype(dtype)


def offsets_of(bases: int) -> np.ndarray:
    """u_1 to u_M, (bases,): evenly spaced from -1 to 1, and 0 for a single basis."""
    if bases == 1:
        return np.zeros(1)
    return np.linspace(-1, 1, bases)


def fit(latent, bases, *, per_channel: bool):
    """alpha by least squares, from the normal equations: (1, M) or (co, M).

    latent: (kh, kw, ci, co).
    bases: (kh, kw, ci, co, M).
    per_channel: fit an alpha for each output channel.
    """
    channels, count = bases.shape[-2:]
    bases = bases.reshape(-1, channels, count).swapaxes(0, 1)  # (co, weights, M)
    latent = latent.reshape(-1, channels).T  # (co, weights)
    # One fit for the whole kernel, as if it were a single channel.
    if not per_channel:
        bases = bases.reshape(1, -1, count)  # (1, weights, M)
        latent = latent.reshape(1, -1)  # (1, weights)

    # (B^T B + ridge) alpha = B^T W, in full precision: accelerators would round the
    # products to too few digits for the solution.
    products = {
        "preferred_element_type": latent.dtype,
        "precision": jax.lax.Precision.HIGHEST,
    }
    gram = jnp.einsum("cwm,cwn->cmn", bases, bases, **products)  # (co, M, M)
    ridge = RIDGE * latent.shape[-1]
    gram = gram + ridge * jnp.eye(count, dtype=latent.dtype)
    along = jnp.einsum("cwm,cw->cm", bases, latent, **products)  # (co, M)
    solution = jnp.linalg.solve(gram, along[..., None])  # (co, M, 1)
    return solution[..., 0]


def everywhere(x):
    """1, in the shape of x: the gradient passes unchanged."""
    return jnp.ones_like(x)


def half_clip(x):
    """1[|x| <= 1/2], the derivative of x + 1/2 clipped to [0, 1]."""
    return jnp.abs(x) <= 0.5
