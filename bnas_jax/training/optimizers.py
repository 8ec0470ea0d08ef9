"""Optimizers of the weights: chains in which every rule of the method is one link.

`latents` has the links for latent weights, `descent` those for all weights. The rules
are explained in docs/schemes.md and docs/conventions.md.
"""

from typing import Any

import optax

from bnas_jax.core.errors import UserError
from bnas_jax.core.schemes import LatentRule, Scheme, Xnor
from bnas_jax.training import latents
from bnas_jax.training.descent import sgd, with_decay
from bnas_jax.training.schedules import Schedule, constant


class LatentOptimizer(optax.GradientTransformationExtraArgs):
    """An optimizer with a scheme's links for latent weights; made by `for_latents`.

    scheme: the scheme that it follows.
    unclipped: the same optimizer without its clipping, with a state of the same
        structure.
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
        """The optimizer of a chain that follows the scheme."""
        # A named tuple of two functions, init and update, with two attributes besides.
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

    `TrainStep` and `SearchStep` take such an optimizer. Its links, in this order:

    1. The raw gradient is clipped to `clip_norm` (None: not).
    2. The gradient of latent weights is multiplied by the scheme's factor.
    3. The scheme's gradients in closed form take the place of the raw ones.
    4. `optimizer` makes its update.
    5. The scheme's rates multiply the update.
    6. Latent weights are projected.

    rate: the optimizer's learning rate, a number or a function of the step; for a
        scheme whose closed forms depend on it.

    Both steps pass the loss of the batch as `value`, which some optimizers need, such
    as `optax.contrib.reduce_on_plateau`. Line searches need more and are not served.

    Raises `UserError` for an optimizer that already does this, for `optax.MultiSteps`
    where weights are projected, and without a rate that is needed.

    >>> optimizer = bnas.for_latents(optax.adam(1e-3), bnas.SCHEMES["bireal"]())
    """
    if isinstance(optimizer, LatentOptimizer):
        raise UserError(
            "this optimizer already treats latent weights; make it anew with scheme=, "
            "or wrap the one inside"
        )
    check_optimizer("optimizer", optimizer)
    check_scheme(scheme)
    rule = scheme.latents
    # Behind an update of 0, too, weights would be projected, and move.
    owner = getattr(optimizer.init, "__self__", None)
    if isinstance(owner, optax.MultiSteps) and rule.project is not None:
        raise UserError(
            "optax.MultiSteps would move latent weights between its updates, as they "
            "are projected in every step; write TrainStep(..., microbatches=K) with "
            "K times the batch"
        )
    if rule.gradients is not None and rate is None:
        raise UserError(
            f"the gradients of {type(scheme).__name__} depend on the learning rate; "
            "write for_latents(optimizer, scheme, rate=...) with the optimizer's own"
        )

    # Before the optimizer: what changes gradients.
    links = []
    clips = clip_norm is not None and clip_norm != float("inf")
    if clips:
        links.append(optax.clip_by_global_norm(clip_norm))
    if rule.factor is not None:
        links.append(latents.scale_latent_gradients(rule.factor))
    if rule.gradients is not None and rate is not None:
        links.append(latents.latent_gradients(rule.gradients, _schedule(rate)))

    # Behind the optimizer: what changes updates. The projection is last, as it needs
    # the whole update.
    links.append(optimizer)
    if rule.rates:
        links.append(latents.scale_rates(rule.rates))
    if rule.project is not None:
        links.append(latents.project_latents(rule.project))

    # The same chain without clipping. An identity takes its place, so that both chains
    # can use one state.
    unclipped = list(links)
    if clips:
        unclipped[0] = optax.identity()
    return LatentOptimizer.of(
        chain=optax.chain(*links), scheme=scheme, unclipped=optax.chain(*unclipped)
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

    Weight decay is added to the gradient behind the scheme's factor, as in the authors'
    code.

    learning_rate, momentum: numbers or functions of the step.
    decayed: see `descent.with_decay`.
    clip_norm, scheme: see `for_latents`.

    >>> rate = optax.cosine_decay_schedule(0.025, 1000)
    >>> optimizer = bnas.latent_sgd(rate, weight_decay=3e-4)
    """
    descent = sgd(_schedule(learning_rate), _schedule(momentum), nesterov=nesterov)
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
    """Adam as in PyTorch, where weight decay is L2 regularisation.

    Otherwise as `latent_sgd`.
    """
    descent = optax.adam(_schedule(learning_rate), b1=beta1, b2=beta2, eps=eps)
    decaying = with_decay(descent, weight_decay=weight_decay, decayed=decayed)
    return for_latents(decaying, scheme, clip_norm=clip_norm, rate=learning_rate)


def check_latents(optimizer: optax.GradientTransformation, scheme: Scheme) -> None:
    """Raises `UserError` unless an optimizer treats latent weights as the scheme does.

    optimizer: any, such as one that treats no latent weights, or those of another
        scheme.
    """
    check_scheme(scheme)
    # Schemes are compared before their rules: two equal schemes may have unequal rules,
    # whose functions may be made anew for each.
    followed = getattr(optimizer, "scheme", None)
    if followed == scheme:
        return

    # Two different schemes may have the same rule, such as none.
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


def check_scheme(scheme: Any) -> None:
    """Raises `UserError` for what is no scheme."""
    # A common slip is a scheme's name, or its class without the brackets.
    if not isinstance(scheme, Scheme):
        raise UserError(f"scheme must be an object such as Xnor(), got {scheme!r}")


def check_optimizer(name: str, optimizer: Any) -> None:
    """Raises `UserError` for what is no optimizer, such as a learning rate.

    name: of the argument.
    """
    if not hasattr(optimizer, "init") or not hasattr(optimizer, "update"):
        raise UserError(
            f"{name} must be an optax optimizer such as optax.adam(3e-4), got "
            f"{optimizer!r}"
        )


def _schedule(value: float | Schedule) -> Schedule:
    if callable(value):
        return value
    return constant(value)
