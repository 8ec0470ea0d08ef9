"""DARTS (arXiv 1806.09055): alpha on validation data, at first order or after a virtual step of the weights."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bnas_jax.core import genotype as genotype_lib
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import Cell
from bnas_jax.search.diversity import Diverse
from bnas_jax.search.searcher import ALPHAS, DERIVATION, TRAIN, VALID, WEIGHTS, Stage

UNROLLED = ("none", "difference", "exact")
# How far the weights are moved for the finite difference: epsilon = .01 / |vector| (DARTS section 2.3).
DISTANCE = 0.01


@dataclasses.dataclass(frozen=True)
class Darts(Diverse):
    """unrolled: alpha's gradient. `none`: first order. At second order, the loss is that of the weights after a virtual step
    (DARTS Eq. 6 to 8), and what flows through that step is a central `difference`, as published, or `exact`.

    The difference divides what signs and poolings jump by, so that it is no good estimate on a binary supernet; `exact` runs on
    sums of floats, which are slower.
    keep_zeroise: let the derivation take Zeroise, which DARTS leaves out. diversity, tau, entropy: see `Diverse`.
    """

    diversity: float = 0.0
    unrolled: str = "none"
    keep_zeroise: bool = dataclasses.field(default=False, metadata=DERIVATION)

    # At first order, alpha's stage leaves the training batch alone.
    stages: ClassVar[tuple[Stage, ...]] = (
        Stage((VALID, TRAIN), frozenset({ALPHAS})),
        Stage((TRAIN,), frozenset({WEIGHTS})),
    )

    def __post_init__(self):
        super().__post_init__()
        if self.unrolled not in UNROLLED:
            raise UserError(
                f"config.searcher.unrolled must be one of {', '.join(UNROLLED)}, got {self.unrolled!r}"
            )

    @property
    def second_order(self) -> bool:
        return self.unrolled == "exact"

    def gradient(self, mean, virtual, params, alphas):
        if self.unrolled == "none":
            return None
        at_weights = mean(lambda loss: jax.grad(loss)(params, alphas), TRAIN)
        ahead, through_step = jax.vjp(lambda grads: virtual(params, grads), at_weights)
        to_ahead, first_term = mean(
            lambda loss: jax.grad(loss, argnums=(0, 1))(ahead, alphas), VALID
        )

        # What reaches the training gradient; with plain SGD, -rate times the gradient ahead.
        (vector,) = through_step(to_ahead)
        mixed = exact_product if self.unrolled == "exact" else difference_product
        return jax.tree.map(jnp.add, first_term, mixed(mean, vector, params, alphas))

    def derive_cell(self, weights: np.ndarray) -> Cell:
        """Top two edges a node by their strongest layer type, Zeroise left out."""
        return genotype_lib.derive(
            weights,
            keep_zeroise=self.keep_zeroise,
            layer_types=self.layer_types,
        )


def exact_product(mean, vector, params, alphas):
    """The gradient at alpha of <the training gradient at the weights, vector>."""

    def along(loss):
        def slope(alphas):
            return optax.tree_utils.tree_vdot(jax.grad(loss)(params, alphas), vector)

        return jax.grad(slope)(alphas)

    return mean(along, TRAIN)


def difference_product(mean, vector, params, alphas):
    """The same by the training gradients at alpha of the weights moved to both sides along the vector (DARTS Eq. 8)."""
    size = optax.tree_utils.tree_norm(vector)
    epsilon = DISTANCE / jnp.maximum(size, jnp.finfo(size.dtype).tiny)

    def at_alphas(sign):
        moved = jax.tree.map(lambda w, v: w + sign * epsilon * v, params, vector)
        return mean(lambda loss: jax.grad(loss, argnums=1)(moved, alphas), TRAIN)

    return jax.tree.map(
        lambda plus, minus: (plus - minus) / (2 * epsilon), at_alphas(1), at_alphas(-1)
    )
