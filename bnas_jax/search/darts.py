"""DARTS (arXiv 1806.09055): alpha on validation data, at first order or after a virtual
step of the weights.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bnas_jax.core import derivation
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import Cell
from bnas_jax.search.diversity import Diverse
from bnas_jax.search.searcher import ALPHAS, DERIVATION, TRAIN, VALID, WEIGHTS, Stage

UNROLLED = ("none", "difference", "exact")
# How far the weights are moved for the finite difference: epsilon = .01 / |vector|
# (DARTS section 2.3).
DISTANCE = 0.01


@dataclasses.dataclass(frozen=True)
class Darts(Diverse):
    """DARTS's bilevel search. unrolled: how the gradient with respect to alpha is
    taken:

    - `none`: first order, at the present weights.
    - `difference`: second order, at the weights after a virtual step (DARTS Eq. 6 to
      8), whose derivative is a central
      difference, as published. Signs and poolings jump, and the difference divides by a
      small number what they jump by: on a binary supernet it is no good estimate.
    - `exact`: second order with the exact derivative. It needs sums of signs as floats,
      which are slower.

    keep_zeroise: let the derivation take Zeroise, which DARTS leaves out. diversity,
    tau, entropy: see `Diverse`.
    """

    diversity: float = 0.0
    unrolled: str = "none"
    keep_zeroise: bool = dataclasses.field(default=False, metadata=DERIVATION)

    # At first order, alpha's stage leaves the training batch alone.
    stages: ClassVar[tuple[Stage, ...]] = (
        Stage(batches=(VALID, TRAIN), moves=frozenset({ALPHAS})),
        Stage(batches=(TRAIN,), moves=frozenset({WEIGHTS})),
    )

    def __post_init__(self):
        super().__post_init__()
        if self.unrolled not in UNROLLED:
            raise UserError(
                f"config.searcher.unrolled must be one of {', '.join(UNROLLED)}, got "
                f"{self.unrolled!r}"
            )

    @property
    def second_order(self) -> bool:
        return self.unrolled == "exact"

    def gradient(self, mean, virtual, params, alphas):
        if self.unrolled == "none":
            return None

        # The weights after a virtual step w' = w - rate * gradient of the training loss
        # (DARTS Eq. 6).
        at_weights = mean(lambda loss: jax.grad(loss)(params, alphas), TRAIN)
        ahead, through_step = jax.vjp(lambda grads: virtual(params, grads), at_weights)

        # The gradients of the validation loss with respect to w' and to alpha.
        both = (0, 1)
        to_ahead, first_term = mean(
            lambda loss: jax.grad(loss, both)(ahead, alphas), VALID
        )

        # What reaches the training gradient; with plain SGD, -rate times the gradient
        # ahead.
        (vector,) = through_step(to_ahead)
        product = difference_product
        if self.unrolled == "exact":
            product = exact_product
        second_term = product(mean, vector, params=params, alphas=alphas)
        return jax.tree.map(jnp.add, first_term, second_term)

    def derive_cell(self, weights: np.ndarray) -> Cell:
        """Top two edges a node by their strongest layer type, Zeroise left out."""
        return derivation.derive(
            weights,
            keep_zeroise=self.keep_zeroise,
            layer_types=self.layer_types,
        )


def exact_product(mean, vector, params, alphas):
    """The gradient with respect to alpha of <the training gradient with respect to the
    weights, vector>, the second term of DARTS Eq. 7.

    mean: see `searcher.Mean`. vector, params: trees of the weights' shapes. Returns a
    tree of alpha's shapes.
    """

    def along(loss):
        def slope(alphas):
            at_weights = jax.grad(loss)(params, alphas)
            return optax.tree_utils.tree_vdot(at_weights, vector)

        return jax.grad(slope)(alphas)

    return mean(along, TRAIN)


def difference_product(mean, vector, params, alphas):
    """`exact_product` by a central difference: the training gradients with respect to
    alpha, with the weights moved to both sides along the vector (DARTS Eq. 8).
    """
    # A vector of zeros has no length to divide by.
    size = optax.tree_utils.tree_norm(vector)
    epsilon = DISTANCE / jnp.maximum(size, jnp.finfo(size.dtype).tiny)

    def at_alphas(sign):
        """The gradient with respect to alpha of the training loss at w + sign * epsilon
        * vector.
        """
        moved = jax.tree.map(lambda w, v: w + sign * epsilon * v, params, vector)
        return mean(lambda loss: jax.grad(loss, argnums=1)(moved, alphas), TRAIN)

    def difference(plus, minus):
        return (plus - minus) / (2 * epsilon)

    return jax.tree.map(difference, at_alphas(1), at_alphas(-1))
