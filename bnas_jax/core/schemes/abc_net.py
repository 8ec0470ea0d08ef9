"""ABC-Net, "Clip + Scale" (arXiv 1711.11294): several bases of signs for the weights
and for the activations.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bnas_jax.core.errors import UserError
from bnas_jax.core.ops.conv import conv
from bnas_jax.core.schemes.scheme import Scheme, convolve_module, finish
from bnas_jax.core.schemes.straight_through import straight_through

# This share of the number of weights is added to the diagonal of the normal equations:
# equal bases have no single solution.
RIDGE = 1e-6


@dataclasses.dataclass(frozen=True)
class AbcNet(Scheme):
    """y = sum over n and m of beta_n * alpha_m * conv(A_n, B_m): (N, H, W, C) with W
    (kh, kw, ci, co) to (N, H', W', co).

    weight_bases, M: B_m = sign(W - mean W + u_m * std W), (kh, kw, ci, co), with u_m
    even from -1 to 1, and 0 for a single one; mean and (biased) deviation are of the
    whole kernel. alpha, (M,), minimises |W - sum of alpha_m B_m|^2; with `per_channel`
    it does so for each output channel, (co, M). A kernel of zeros has alpha 0.
    activation_bases, N: A_n = 1 where x + v_n >= 0.5, else -1; v is the parameter
    `shift`, beta the parameter `beta`, (N,).

    Gradients: to W from each B_m as if that were W; mean, deviation and alpha are
    constants. Through A_n where 0 <= x + v_n <= 1, to x and, summed, to v. beta has its
    ordinary one. W is not projected.

    shift, spread: v begins evenly from shift - spread to shift + spread; a single one
    at `shift`. Equal ones would stay equal, as they get equal gradients. beta begins at
    1. Inputs that are left float meet the sum of alpha_m B_m.

    How sure: the formulas follow a third party's notebook, which fits alpha by descent;
    the bases agree with the code of another. `spread` is our choice: the notebook
    begins with 0. The BNAS paper compares
    M = N = 1. The paper begins with a trained float network.
    """

    weight_bases: int = 1
    activation_bases: int = 1
    per_channel: bool = False
    shift: float = 0.0
    spread: float = 0.5

    # Bases multiply the channels and images of a convolution, and their shifts are its
    # parameters.
    batches_edges: ClassVar[bool] = False
    plain_signs: ClassVar[bool] = False

    def __post_init__(self):
        super().__post_init__()
        for name in ("weight_bases", "activation_bases"):
            value = getattr(self, name)
            if value < 1:
                raise UserError(f"config.scheme.{name} must be at least 1, got {value}")
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
        bases, alpha = self.bases(module.latent(x))
        # The basis is the minor index of the channels, so that those of a group lie
        # together.
        return bases.reshape(*bases.shape[:3], -1), (alpha,)

    def convolve(self, module, x):
        """All bases run as one: those of the activations as further images, those of
        the weights as output channels.
        """
        w, (alpha,) = module.binarized(x)
        x, beta = self._activations(module, x)
        return convolve_module(module, x, w=w, operands=(alpha, beta))

    def convolve_float(self, module, x):
        """The bases of the activations with a float kernel."""
        kernel = module.float_kernel(x)
        x, beta = self._activations(module, x)
        dtype, plain = module.arithmetic.conv_dtype, module.arithmetic.plain
        y = conv(
            x,
            kernel,
            geometry=module.geometry,
            dtype=dtype,
            plain=plain,
        )
        # As with a single basis of the weights, and its alpha 1.
        y = self.after(y, alpha=jnp.ones((1, 1), y.dtype), beta=beta)
        return finish(self, y, scale=None, activation=module.activates_sums)

    def _activations(self, module, x):
        """(A_1 to A_N, one behind the other, (N * images, H, W, C); beta (N,)), or x as
        it is and 1 where it stays float.
        """
        dtype = module.arithmetic.dtype
        if not module.binary_input:
            return x, jnp.ones((1,), dtype)
        shift = module.param("shift", self._first_shifts, dtype)
        beta = module.param(
            "beta", nn.initializers.ones, (self.activation_bases,), dtype
        )
        # x + v >= 0.5, as a sign.
        real = jnp.concatenate([x + v - 0.5 for v in shift])
        signs = straight_through(real, window=half_clip, sign_of_zero=self.sign_of_zero)
        return signs, beta

    def bases(self, latent):
        """(B_1 to B_M, (kh, kw, ci, co, M); alpha, (1 or co, M))."""
        # B_m, with mean and deviation as constants.
        constant = jax.lax.stop_gradient(latent)
        offsets = offsets_of(self.weight_bases) * jnp.std(constant)  # (M,)
        centred = latent - jnp.mean(constant)
        real = centred[..., None] + offsets.astype(latent.dtype)
        bases = straight_through(
            real, window=everywhere, sign_of_zero=self.sign_of_zero
        )

        # alpha of least squares, a constant too.
        alpha = fit(
            constant, jax.lax.stop_gradient(bases), per_channel=self.per_channel
        )
        return bases, alpha

    def after(self, sums, alpha, beta):
        """sums: (N * images, H', W', co * M); alpha: (1 or co, M); beta: (N,).

        Returns (images, H', W', co).
        """
        _, height, width, channels = sums.shape
        bases = alpha.shape[-1]
        sums = sums.reshape(len(beta), -1, height, width, channels // bases, bases)
        over_weights = jnp.sum(sums * alpha, axis=-1)  # (N, images, H', W', co)
        return jnp.sum(over_weights * beta[:, None, None, None, None], axis=0)

    def cost(self, row, module):
        """N times the products where the inputs are binary, M times the products and
        the bits where the weights are.
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
        """v at the start, (N,)."""
        del key
        shifts = self.shift + self.spread * offsets_of(self.activation_bases)
        return shifts.astype(dtype)


def offsets_of(bases: int) -> np.ndarray:
    """Even from -1 to 1, and 0 for a single basis: (bases,)."""
    if bases == 1:
        return np.zeros(1)
    return np.linspace(-1, 1, bases)


def fit(latent, bases, *, per_channel: bool):
    """alpha of least squares, by the normal equations: (1, M), or (co, M) for each
    output channel.

    latent: (kh, kw, ci, co); bases: (kh, kw, ci, co, M).
    """
    channels, count = bases.shape[-2:]
    bases = bases.reshape(-1, channels, count).swapaxes(0, 1)  # (co, weights, M)
    latent = latent.reshape(-1, channels).T  # (co, weights)
    # One fit for the whole kernel, as if it were a single channel.
    if not per_channel:
        bases, latent = bases.reshape(1, -1, count), latent.reshape(1, -1)

    # (B^T B) alpha = B^T W. The full precision, as accelerators round to fewer digits
    # than a solution needs.
    products = {
        "preferred_element_type": latent.dtype,
        "precision": jax.lax.Precision.HIGHEST,
    }
    gram = jnp.einsum("cwm,cwn->cmn", bases, bases, **products)
    ridge = RIDGE * latent.shape[-1]
    gram = gram + ridge * jnp.eye(count, dtype=latent.dtype)
    along = jnp.einsum("cwm,cw->cm", bases, latent, **products)
    solution = jnp.linalg.solve(gram, along[..., None])  # (co, M, 1)
    return solution[..., 0]


def everywhere(x):
    """1: the gradient passes as it is."""
    return jnp.ones_like(x)


def half_clip(x):
    """1[|x| <= 1/2]: where the clip of x + 1/2 to [0, 1] has a slope."""
    return jnp.abs(x) <= 0.5
