"""Optimizers of the architecture parameters alpha."""

import optax


def alphas_adam(
    learning_rate: float,
    *,
    beta1: float = 0.5,
    beta2: float = 0.999,
    weight_decay: float = 1e-3,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """Adam with L2 regularisation, the optimizer of alpha in DARTS.

    clip_norm: the largest norm of alpha's gradient; None does not clip.
    """
    rule = optax.adam(learning_rate, b1=beta1, b2=beta2, eps=1e-8)
    return _regularized(rule, weight_decay=weight_decay, clip_norm=clip_norm)


def alphas_sgd(
    learning_rate: float, *, weight_decay: float = 0.0, clip_norm: float | None = None
) -> optax.GradientTransformation:
    """Gradient descent without momentum.

    SNAS's code updates alpha in this way on one GPU, without weight decay.

    weight_decay: the factor of the L2 regularisation.
    clip_norm: see `alphas_adam`.
    """
    rule = optax.sgd(learning_rate)
    return _regularized(rule, weight_decay=weight_decay, clip_norm=clip_norm)


def _regularized(
    rule: optax.GradientTransformation, *, weight_decay: float, clip_norm: float | None
) -> optax.GradientTransformation:
    """Clipping, then L2 regularisation, then the rule."""
    links = []
    if clip_norm is not None:
        links.append(optax.clip_by_global_norm(clip_norm))
    # Before the rule, so that the decay is part of the gradient. AdamW adds it after
    # the rule.
    links.append(optax.add_decayed_weights(weight_decay))
    links.append(rule)
    return optax.chain(*links)
