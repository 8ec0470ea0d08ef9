"""Optimizers of the weights: optax chains with a transformation for each rule.

The rules for latent weights are in `latents`, those for all weights in `descent`. They
are explained in docs/schemes.md and docs/conventions.md.
"""

from typing import Any

import jax
import numpy as np
import optax

from bnas_jax.core.errors import UserError, shown
from bnas_jax.core.schemes import LatentRule, Scheme, Xnor
from bnas_jax.core.schemes.scheme import check_scheme
from bnas_jax.training import latents
from bnas_jax.training.descent import sgd, with_decay
from bnas_jax.training.schedules import Schedule, constant


class LatentOptimizer(optax.GradientTransformationExtraArgs):
    """An optimizer that treats latent weights as a scheme says; see `for_latents`.

    scheme: the scheme.
    unclipped: the same optimizer without clipping, whose state has the same structure.
    """

    scheme: Scheme
    unclipped: optax.GradientTransformation

    @classmethod
    def of(
        cls,
        chain: optax.GradientTransformation,
        scheme: Scheme,
        unclipped: optax.GradientTransformation,
    ) -> "LatentOptimizer":
        """The optimizer with the functions of a chain."""
        # A named tuple of two functions, init and update, with two more attributes.
        optimizer = cls(*optax.with_extra_args_support(chain))
        optimizer.scheme, optimizer.unclipped = scheme, unclipped
        return optimizer


def for_latents(
    optimizer: optax.GradientTransformation,
    scheme: Scheme = Xnor(),  # noqa: B008 (frozen)
    *,
    clip_norm: float | None = None,
    rate: float | Schedule | None = None,
) -> LatentOptimizer:
    """Any optax optimizer, with the scheme's treatment of latent weights.

    `TrainStep` and `SearchStep` need such an optimizer. An update has these steps:

    1. The gradient is clipped to `clip_norm` (None does not clip).
    2. The gradient of latent weights is multiplied by the scheme's factor.
    3. The gradients are replaced by those that the scheme has in closed form.
    4. `optimizer` computes its update.
    5. The update is multiplied by the scheme's learning rates.
    6. The latent weights are projected.

    A scheme has some of the steps 2, 3, 5 and 6 (`LatentRule`).

    rate: the optimizer's learning rate, a number or a function of the step. Only a
        scheme with gradients in closed form needs it.

    `TrainStep` and `SearchStep` pass the loss of the batch as `value`, which some
    optimizers need, such as `optax.contrib.reduce_on_plateau`. Line searches,
    `optax.lookahead` and `optax.contrib.sam` need more and do not work.

    Raises `UserError` for an optimizer that was made by this function, for
    `optax.MultiSteps` if weights are projected, for a missing rate, and for a
    `clip_norm` that is not above 0.

    >>> optimizer = bnas.for_latents(optax.adam(1e-3), bnas.SCHEMES["bireal"]())
    """
    check_scheme(scheme)
    rule = scheme.latents
    _check_for_latents(optimizer, scheme, clip_norm=clip_norm, rate=rate)

    # Before the optimizer: the transformations of gradients.
    links = []
    clips = clip_norm is not None and clip_norm != float("inf")
    if clips:
        links.append(optax.clip_by_global_norm(clip_norm))
    if rule.factor is not None:
        links.append(latents.scale_latent_gradients(rule.factor))
    if rule.gradients is not None and rate is not None:
        links.append(latents.latent_gradients(rule.gradients, _schedule("rate", rate)))

    # After the optimizer: the transformations of updates. The projection needs the
    # whole update, and so is the last one.
    links.append(optimizer)
    if rule.rates:
        links.append(latents.scale_rates(rule.rates))
    if rule.project is not None:
        links.append(latents.project_latents(rule.project))

    # The same chain with an identity in place of the clipping, so that the states of
    # both have the same structure.
    unclipped = list(links)
    if clips:
        unclipped[0] = optax.identity()
    return LatentOptimizer.of(
        chain=optax.chain(*links), scheme=scheme, unclipped=optax.chain(*unclipped)
    )


def _check_for_latents(
    optimizer: Any, scheme: Scheme, *, clip_norm: float | None, rate: Any
) -> None:
    """Raises the errors of `for_latents`."""
    if isinstance(optimizer, LatentOptimizer):
        raise UserError(
            "this optimizer already treats latent weights; make it again with scheme=, "
            "or wrap the one inside"
        )
    check_optimizer("optimizer", optimizer)

    # Latent weights would be projected, and so change, even after an update of 0.
    owner = getattr(optimizer.init, "__self__", None)
    if isinstance(owner, optax.MultiSteps) and scheme.latents.project is not None:
        raise UserError(
            "optax.MultiSteps would move latent weights between its updates, as they "
            "are projected in every step; write TrainStep(..., microbatches=K) with "
            "K times the batch"
        )
    if clip_norm is not None and not clip_norm > 0:
        raise UserError(f"clip_norm must be greater than 0 or None, got {clip_norm}")
    if scheme.latents.gradients is not None and rate is None:
        raise UserError(
            f"the gradients of {type(scheme).__name__} depend on the learning rate; "
            "write for_latents(optimizer, scheme, rate=...) with the optimizer's own"
        )


def latent_sgd(
    learning_rate: float | Schedule,
    *,
    momentum: float | Schedule = 0.9,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    decayed: str = "all",
    clip_norm: float | None = None,
    scheme: Scheme = Xnor(),  # noqa: B008 (frozen)
) -> LatentOptimizer:
    """SGD as in PyTorch, with the scheme's treatment of latent weights.

    Weight decay is added to the gradient after the scheme's factor, as in the authors'
    code.

    learning_rate, momentum: numbers or functions of the step.
    decayed: see `descent.with_decay`.
    clip_norm, scheme: see `for_latents`.

    Raises `UserError` as `for_latents` does, and for a learning rate or a momentum of
    another type.

    >>> rate = optax.cosine_decay_schedule(0.025, 1000)
    >>> optimizer = bnas.latent_sgd(rate, weight_decay=3e-4)
    """
    rate = _schedule("learning_rate", learning_rate)
    descent = sgd(rate, _schedule("momentum", momentum), nesterov=nesterov)
    decaying = with_decay(descent, weight_decay=weight_decay, decayed=decayed)
    return for_latents(decaying, scheme, clip_norm=clip_norm, rate=learning_rate)


def latent_adam(
    learning_rate: float | Schedule,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decayed: str = "all",
    clip_norm: float | None = None,
    scheme: Scheme = Xnor(),  # noqa: B008 (frozen)
) -> LatentOptimizer:
    """Adam as in PyTorch, with the scheme's treatment of latent weights.

    Weight decay is L2 regularisation. All other arguments are those of `latent_sgd`.
    """
    rate = _schedule("learning_rate", learning_rate)
    descent = optax.adam(rate, b1=beta1, b2=beta2, eps=eps)
    decaying = with_decay(descent, weight_decay=weight_decay, decayed=decayed)
    return for_latents(decaying, scheme, clip_norm=clip_norm, rate=learning_rate)


def check_latents(optimizer: optax.GradientTransformation, scheme: Scheme) -> None:
    """Raises `UserError` unless an optimizer treats latent weights as the scheme does.

    optimizer: any optimizer, such as a plain one or one for another scheme.
    """
    check_scheme(scheme)
    # First compare the schemes: the rules of equal schemes may compare unequal, because
    # their functions may be created for each rule.
    followed = getattr(optimizer, "scheme", None)
    if followed == scheme:
        return

    # Two different schemes may have the same rule, such as the empty one.
    rule = LatentRule()
    if followed is not None:
        rule = followed.latents
    if rule != scheme.latents:
        name = type(scheme).__name__
        rate = ""
        if scheme.latents.gradients is not None:
            rate = ", rate=rate"
        raise UserError(
            f"the optimizer does not treat latent weights as {name} does; write "
            "latent_sgd(rate, scheme=scheme) with the network's scheme, or "
            f"for_latents(inner, scheme{rate}) with an optax optimizer inside"
        )


def check_optimizer(name: str, optimizer: Any) -> None:
    """Raises `UserError` unless this is an optimizer; it may be a learning rate.

    name: the name of the argument.
    """
    if not hasattr(optimizer, "init") or not hasattr(optimizer, "update"):
        raise UserError(
            f"{name} must be an optax optimizer such as optax.adam(3e-4), got "
            f"{shown(optimizer)}"
        )


def _schedule(name: str, value: float | Schedule) -> Schedule:
    """A function of the step; raises `UserError` for what is no number and no function.

    name: the name of the argument.
    """
    if callable(value):
        return value
    # A scalar array, perhaps a traced one, is a number, too.
    if not isinstance(value, (int, float, np.number, np.ndarray, jax.Array)):
        raise UserError(
            f"{name} must be a number or a function of the step, got {shown(value)}"
        )
    return constant(value)
