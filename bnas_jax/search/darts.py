"""DARTS (arXiv 1806.09055): alpha on validation data, at first or at second order.

At second order, the gradient of alpha is taken after a virtual step of the weights.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bnas_jax.core import derivation
from bnas_jax.core.checks import choice
from bnas_jax.core.genotype import Cell
from bnas_jax.search.diversity import Diverse
from bnas_jax.search.searcher import ALPHAS, DERIVATION, TRAIN, VALID, WEIGHTS, Stage

UNROLLED = ("none", "difference", "exact")
# The length of the step of the finite difference: epsilon = 0.01 / |vector| (DARTS
# section 2.3).
DISTANCE = 0.01


@dataclasses.dataclass(frozen=True)
class Darts(Diverse):
    """DARTS's bilevel search.

    unrolled: how the gradient with respect to alpha is computed:

    - `none`: first order, at the current weights.
    - `difference`: second order, at the weights after a virtual step (DARTS Eq. 6 to
      8), with a central difference for the derivative of the step, as published. On a
      binary supernet that is a bad estimate: where a sign changes between the two
      points, the gradient jumps, and the jump is divided by a small number.
    - `exact`: second order with the exact derivative. It takes the plain arithmetic,
      with float sums of signs, which is slower.

    keep_zeroise: whether a derived edge may be Zeroise; in DARTS it may not.
    diversity, tau, entropy: see `Diverse`.
    """

    diversity: float = 0.0
    unrolled: str = "none"
    keep_zeroise: bool = dataclasses.field(default=False, metadata=DERIVATION)

    # The alpha step needs the training batch only for the virtual step of second order.
    stages: ClassVar[tuple[Stage, ...]] = (
        Stage(batches=(VALID, TRAIN), moves=frozenset({ALPHAS})),
        Stage(batches=(TRAIN,), moves=frozenset({WEIGHTS})),
    )

    def __post_init__(self):
        super().__post_init__()
        choice("config.searcher.unrolled", self.unrolled, choices=UNROLLED)

    @property
    def second_order(self) -> bool:
        return self.unrolled == "exact"

    def gradient(self, mean, virtual, params, alphas):
        if self.unrolled == "none":
            return None

        # The virtual step w' = w - rate * gradient of the training loss (DARTS Eq. 6).
        def gradient_now(loss):
            return jax.grad(loss)(params, alphas)

        at_weights = mean(gradient_now, TRAIN)
        ahead, through_step = jax.vjp(lambda grads: virtual(params, grads), at_weights)

        # The gradients of the validation loss at w', with respect to w' and to alpha;
        # the latter is the first term of DARTS Eq. 7.
        def gradients_ahead(loss):
            return jax.grad(loss, argnums=(0, 1))(ahead, alphas)

        to_ahead, first_term = mean(gradients_ahead, VALID)

        # The second term of DARTS Eq. 7. `vector` is the gradient of the validation
        # loss with respect to the training gradient: for plain SGD, -rate * gradient at
        # w'.
        (vector,) = through_step(to_ahead)
        product = difference_product
        if self.unrolled == "exact":
            product = exact_product
        second_term = product(mean, vector, params=params, alphas=alphas)
        return jax.tree.map(jnp.add, first_term, second_term)

    def derive_cell(self, weights: np.ndarray) -> Cell:
        """The two strongest edges of each node, by default without Zeroise."""
        return derivation.derive(
            weights,
            keep_zeroise=self.keep_zeroise,
            layer_types=self.layer_types,
        )


def exact_product(mean, vector, params, alphas):
    """The second term of DARTS Eq. 7, a tree of alpha's shapes.

    It is the gradient with respect to alpha of <g, vector>, where g is the gradient of
    the training loss with respect to the weights.

    mean: see `searcher.Mean`.
    vector, params: trees of the weights' shapes.
    """

    def along(loss):
        def slope(alphas):
            """<g, vector>: the slope of the training loss along the vector."""
            at_weights = jax.grad(loss)(params, alphas)
            return optax.tree_utils.tree_vdot(at_weights, vector)

        return jax.grad(slope)(alphas)

    return mean(along, TRAIN)


def difference_product(mean, vector, params, alphas):
    """`exact_product` by a central difference (DARTS Eq. 8).

    It is (g(w + epsilon * vector) - g(w - epsilon * vector)) / (2 * epsilon), where
    g(w) is the gradient of the training loss with respect to alpha at the weights w.
    """
    # epsilon = 0.01 / |vector|; a vector of zeros has no length to divide by.
    size = optax.tree_utils.tree_norm(vector)
    epsilon = DISTANCE / jnp.maximum(size, jnp.finfo(size.dtype).tiny)

    def at_alphas(sign):
        """The training gradient of alpha at the weights w + sign * epsilon * vector."""
        moved = jax.tree.map(lambda w, v: w + sign * epsilon * v, params, vector)
        return mean(lambda loss: jax.grad(loss, argnums=1)(moved, alphas), TRAIN)

    def difference(plus, minus):
        return (plus - minus) / (2 * epsilon)

    return jax.tree.map(difference, at_alphas(1), at_alphas(-1))
