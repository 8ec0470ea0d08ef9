"""PCNN, "Projection" (arXiv 1811.12755).

Kernels are projected onto signs, and a loss pulls them towards their projections.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bnas_jax.core.checks import positive
from bnas_jax.core.errors import UserError
from bnas_jax.core.schemes.latent_rule import LatentRule
from bnas_jax.core.schemes.scales import inverse
from bnas_jax.core.schemes.scheme import Scheme
from bnas_jax.core.schemes.straight_through import sign

PLANES = "planes"


@dataclasses.dataclass(frozen=True)
class Pcnn(Scheme):
    """y = conv(sign x, Q), where Q_j = a * sign(mean(W_j) * C) are projections of C.

    (N, H, W, ci) to (N, H', W', co). C are the kernels, (kh, kw, ci, co / J), and
    a = mean |C| over the layer. All kernels share the parameter `planes`, (J, kh, kw),
    whose entries are W_1 to W_J. The J projections Q_j are concatenated on the output
    channels, so that J must divide co.

    The parameter `latent`, (kh, kw, ci, co), consists of J equal copies of C, so that
    its gradient has a part delta_j for each projection. After each update the optimizer
    replaces all copies by the first.

    Gradients. The gradient at `latent` is delta_j = dL/dQ_j, with L the classification
    loss. Let r be the learning rate of C, W_j be repeated along the channels, M_j =
    1[|W_j C| <= 1], and E_j = W_j (C + r delta_j) - Q_j. From these the optimizer
    (`latents`) computes the gradients

    - for C: sum over j of delta_j M_j W_j + projection_loss * E_j W_j;
    - for W_j: sum over the channels of
      delta_j M_j C + projection_loss * E_j (C + r delta_j).

    The terms with E_j are the gradient of the projection loss,
    projection_loss / 2 * sum of |Q_j - W_j (C + r delta_j)|^2, for constant delta_j.
    The gradient with respect to x passes where |x| < 1. C is not projected, W_j begins
    at 1. A layer whose C is all 0 does not learn.

    planes: J.
    projection_loss: lambda.
    plane_rate: the learning rate of W_j, relative to that of C.

    How sure: the formulas are those of the paper and of a later book by its authors;
    the output agrees with their published test code, whose kernels are signs times a
    number. They published no training code. The first value of W_j, its learning rate
    and the gradient with respect to x are our choice. The paper binarizes step by step,
    and the BNAS paper quotes J = 1.
    """

    planes: int = 1
    projection_loss: float = 1e-4
    plane_rate: float = 1.0

    # The planes belong to one convolution.
    batches_edges: ClassVar[bool] = False
    block: ClassVar[str] = "pcnn"
    float_shortcut: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        positive("config.scheme", self, "planes")
        for name in ("projection_loss", "plane_rate"):
            value = getattr(self, name)
            if not 0 <= value < np.inf:
                raise UserError(f"config.scheme.{name} must be 0 or more, got {value}")

    @property
    def latents(self) -> LatentRule:
        # With a single projection there are no copies to keep equal.
        project = None
        if self.planes > 1:
            project = SharedKernels(self.planes)

        # The gradients of C and W_j, and the rate of W_j.
        gradients = ClosedForms(
            planes=self.planes,
            projection_loss=self.projection_loss,
            sign_of_zero=self.sign_of_zero,
        )
        return LatentRule(
            project=project,
            gradients=gradients,
            rates={PLANES: self.plane_rate},
        )

    @property
    def width_step(self) -> int:
        return self.planes

    def kernel(self, module, x):
        if module.features % self.planes:
            path = "/".join(module.path)
            raise UserError(
                f"{path} has {module.features} output channels, which "
                f"config.scheme.planes={self.planes} does not divide; write "
                "config.scheme.planes=1, or widths that are its multiples"
            )
        # W_1 to W_J, which begin at 1.
        shape, dtype = (self.planes, *module.kernel), module.arithmetic.dtype
        planes = module.param(PLANES, nn.initializers.ones, shape, dtype)

        # The signs of all projections, and a.
        latent = module.latent(x)  # (kh, kw, ci, co)
        signs, scale = projected(latent, planes, sign_of_zero=self.sign_of_zero)
        return signs, (scale,)

    def after(self, sums, scale):
        return sums * scale

    def cost(self, row, module):
        """The row with the bits of C only: each Q_j is a * sign C up to its sign."""
        del module
        return dataclasses.replace(row, binary_params=row.binary_params // self.planes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def projected(latent, planes, sign_of_zero: int):
    """(signs of the J projections, (kh, kw, ci, co); a).

    The custom gradient is delta_j with respect to `latent`, and the sum over the
    channels of delta_j M_j C with respect to `planes`.

    latent: (kh, kw, ci, co), J copies of C.
    planes: (J, kh, kw).
    """
    kernels = kernels_of(latent, len(planes))  # (kh, kw, ci, co / J)
    means = jnp.mean(planes, axis=(1, 2))  # (J,)
    # sign(mean(W_j) * C) of each j, and a = mean |C|.
    signs = [sign(mean * kernels, sign_of_zero) for mean in means]
    return jnp.concatenate(signs, axis=-1), jnp.mean(jnp.abs(kernels))


def _forward(latent, planes, sign_of_zero):
    signs, scale = projected(latent, planes, sign_of_zero=sign_of_zero)
    return (signs, scale), (latent, planes, scale)


def _backward(sign_of_zero, residuals, gradients):
    del sign_of_zero
    latent, planes, scale = residuals
    # The gradient with respect to the signs is a * delta_j, as `after` multiplies the
    # sums by a. The gradient with respect to a is not used.
    deltas = gradients[0] * inverse(scale)  # (kh, kw, ci, co)

    # The gradient of each W_j is the sum over the channels of delta_j M_j C.
    kernels = kernels_of(latent, len(planes))  # (kh, kw, ci, co / J)
    by_plane = jnp.split(deltas, len(planes), axis=-1)
    to_planes = []
    for delta, plane in zip(by_plane, planes, strict=True):
        passed = delta * mask(plane, kernels) * kernels
        to_planes.append(jnp.sum(passed, axis=(2, 3)))  # (kh, kw)
    return deltas, jnp.stack(to_planes)


projected.defvjp(_forward, _backward)


def kernels_of(latent, planes: int):
    """C, (kh, kw, ci, co / J), from latent weights that are J copies of it."""
    return latent[..., : latent.shape[-1] // planes]


def mask(plane, kernels):
    """M_j = 1[|W_j C| <= 1]. plane: (kh, kw); kernels: (kh, kw, ci, co / J)."""
    passes = jnp.abs(plane[..., None, None] * kernels) <= 1
    return passes.astype(kernels.dtype)


@dataclasses.dataclass(frozen=True)
class SharedKernels:
    """`LatentRule.project`: replaces all copies of C by the first, J = `planes`."""

    planes: int

    def __call__(self, latent):
        first = kernels_of(latent, self.planes)
        return jnp.concatenate([first] * self.planes, axis=-1)


@dataclasses.dataclass(frozen=True)
class ClosedForms:
    """`LatentRule.gradients`: the formulas of `Pcnn` for C and W_j.

    Backpropagation gives delta_j at `latent` and the sums of delta_j M_j C at `planes`,
    see `projected`. From them it computes the gradients for the optimizer.
    """

    planes: int
    projection_loss: float
    sign_of_zero: int

    def __call__(self, params: Mapping, gradients: Mapping, rate) -> dict:
        # C, and Q_j and delta_j of each projection: (kh, kw, ci, co / J).
        latent, planes = params["latent"], params[PLANES]
        kernels = kernels_of(latent, self.planes)
        signs, scale = projected(latent, planes, sign_of_zero=self.sign_of_zero)
        projections = jnp.split(scale * signs, self.planes, axis=-1)
        deltas = jnp.split(gradients["latent"], self.planes, axis=-1)

        to_kernels, to_planes = jnp.zeros_like(kernels), []
        for index in range(self.planes):
            delta = deltas[index]
            plane = planes[index][..., None, None]  # W_j, (kh, kw, 1, 1)
            # lambda E_j, with E_j = W_j (C + r delta_j) - Q_j.
            ahead = kernels + rate * delta
            pull = self.projection_loss * (plane * ahead - projections[index])

            # C gets the sum over j of (delta_j M_j + lambda E_j) W_j.
            passed = delta * mask(planes[index], kernels)
            to_kernels = to_kernels + (passed + pull) * plane

            # W_j gets the sum over the channels of
            # delta_j M_j C + lambda E_j (C + r delta_j).
            pulled = jnp.sum(pull * ahead, axis=(2, 3))  # (kh, kw)
            to_planes.append(gradients[PLANES][index] + pulled)

        # The same gradient for all J copies of C.
        to_latent = jnp.concatenate([to_kernels] * self.planes, axis=-1)
        return {**gradients, "latent": to_latent, PLANES: jnp.stack(to_planes)}
