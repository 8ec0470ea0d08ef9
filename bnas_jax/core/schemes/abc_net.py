"""ABC-Net, "Clip + Scale" (arXiv 1711.11294): several bases of signs for the weights and for the activations."""

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

# Of the number of weights, added to the diagonal of the normal equations: bases that are equal have no single solution.
RIDGE = 1e-6


@dataclasses.dataclass(frozen=True)
class AbcNet(Scheme):
    """y = sum over n and m of beta_n * alpha_m * conv(A_n, B_m): (N, H, W, C) with W (kh, kw, ci, co) to (N, H', W', co).

    weight_bases, M: B_m = sign(W - mean W + u_m * std W), (kh, kw, ci, co), with u_m even from -1 to 1, and 0 for a single
    one; mean and (biased) deviation are of the whole kernel. alpha, (M,), minimises |W - sum of alpha_m B_m|^2; with
    `per_channel` it does so for each output channel, (co, M). A kernel of zeros has alpha 0.
    activation_bases, N: A_n = 1 where x + v_n >= 0.5, else -1; v is the parameter `shift`, beta the parameter `beta`, (N,).

    Gradients: to W from each B_m as if that were W; mean, deviation and alpha are constants. Through A_n where 0 <= x + v_n <=
    1, to x and, summed, to v. beta has its ordinary one. W is not projected.

    shift, spread: v begins evenly from shift - spread to shift + spread; a single one at `shift`. Equal ones would stay
    equal, as they get equal gradients. beta begins at 1. Inputs that are left float meet the sum of alpha_m B_m.

    How sure: formulas from memory of the paper, and from a published notebook, which fits alpha by descent; the bases agree
    with a third party's code. `spread` is our choice: the notebook begins with 0. The BNAS paper compares M = N = 1. The
    paper begins with a trained float network.
    """

    weight_bases: int = 1
    activation_bases: int = 1
    per_channel: bool = False
    shift: float = 0.0
    spread: float = 0.5

    joins: ClassVar[bool] = False
    plain_signs: ClassVar[bool] = False

    def __post_init__(self):
        super().__post_init__()
        for name in ("weight_bases", "activation_bases"):
            if getattr(self, name) < 1:
                raise UserError(
                    f"config.scheme.{name} must be at least 1, got {getattr(self, name)}"
                )
        if not 0 <= self.spread < np.inf:
            raise UserError(f"config.scheme.spread must be 0 or more, got {self.spread}")
        if not np.isfinite(self.shift):
            raise UserError(f"config.scheme.shift must be a finite number, got {self.shift}")

    def convolve(self, module, x):
        """All bases run as one: those of the activations as further images, those of the weights as output channels."""
        bases, alpha = self.weights(module.latent(x))
        x, beta = self._activations(module, x)
        # The basis is the minor index of the channels, so that those of a group lie together.
        w = bases.reshape(*bases.shape[:3], -1)
        return convolve_module(module, x, w, (alpha, beta))

    def convolve_float(self, module, x):
        """The bases of the activations with a float kernel."""
        kernel = module.float_kernel(x)
        x, beta = self._activations(module, x)
        arithmetic = module.arithmetic
        y = conv(x, kernel, module.geometry, dtype=arithmetic.conv_dtype, plain=arithmetic.plain)
        return finish(
            self, self.after(y, jnp.ones((1, 1), y.dtype), beta), None, activation=module.activation
        )

    def _activations(self, module, x):
        """(A_1 to A_N, one behind the other, (N * images, H, W, C); beta (N,)), or x as it is and 1 where it stays float."""
        dtype = module.arithmetic.dtype
        if not module.binary_input:
            return x, jnp.ones((1,), dtype)
        shift = module.param("shift", self._first_shifts, dtype)
        beta = module.param("beta", nn.initializers.ones, (self.activation_bases,), dtype)
        real = jnp.concatenate([x + v - 0.5 for v in shift])
        return straight_through(real, half_clip, self.sign_of_zero), beta

    def weights(self, latent):
        """(B, (kh, kw, ci, co, M); alpha, (1 or co, M))."""
        constant = jax.lax.stop_gradient(latent)
        offsets = offsets_of(self.weight_bases) * jnp.std(constant)
        real = (latent - jnp.mean(constant))[..., None] + offsets.astype(latent.dtype)
        bases = straight_through(real, everywhere, self.sign_of_zero)
        return bases, fit(constant, jax.lax.stop_gradient(bases), per_channel=self.per_channel)

    def after(self, sums, alpha, beta):
        """sums: (N * images, H', W', co * M); alpha: (1 or co, M); beta: (N,)."""
        size, bases = sums.shape[1:3], alpha.shape[-1]
        sums = sums.reshape(len(beta), -1, *size, sums.shape[-1] // bases, bases)
        return jnp.sum(jnp.sum(sums * alpha, axis=-1) * beta[:, None, None, None, None], axis=0)

    def cost(self, row):
        """M * N times the binary products, M times the bits."""
        return dataclasses.replace(
            row,
            binary_macs=row.binary_macs * self.weight_bases * self.activation_bases,
            binary_params=row.binary_params * self.weight_bases,
        )

    def _first_shifts(self, key, dtype):
        del key
        return (self.shift + self.spread * offsets_of(self.activation_bases)).astype(dtype)


def offsets_of(bases: int) -> np.ndarray:
    """Even from -1 to 1, and 0 for a single basis: (bases,)."""
    if bases == 1:
        return np.zeros(1)
    return np.linspace(-1, 1, bases)


def fit(latent, bases, *, per_channel: bool):
    """alpha of least squares, by the normal equations: (1, M), or (co, M) where each output channel has its own.

    latent: (kh, kw, ci, co); bases: (kh, kw, ci, co, M).
    """
    channels, count = bases.shape[-2:]
    bases = bases.reshape(-1, channels, count).swapaxes(0, 1)  # (co, weights, M)
    latent = latent.reshape(-1, channels).T  # (co, weights)
    if not per_channel:
        bases, latent = bases.reshape(1, -1, count), latent.reshape(1, -1)
    products = {"preferred_element_type": latent.dtype, "precision": jax.lax.Precision.HIGHEST}
    gram = jnp.einsum("cwm,cwn->cmn", bases, bases, **products)
    gram = gram + RIDGE * latent.shape[-1] * jnp.eye(count, dtype=latent.dtype)
    along = jnp.einsum("cwm,cw->cm", bases, latent, **products)
    return jnp.linalg.solve(gram, along[..., None])[..., 0]


def everywhere(x):
    """1: the gradient passes as it is."""
    return jnp.ones_like(x)


def half_clip(x):
    """1[|x| <= 1/2]: where the clip of x + 1/2 to [0, 1] has a slope."""
    return jnp.abs(x) <= 0.5
