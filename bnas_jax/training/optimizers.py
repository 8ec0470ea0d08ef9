"""Optimizers, as chains in which every rule of the method is one link (docs/schemes.md, docs/conventions.md).

Latent weights, the parameters that `layers.is_latent` knows by name, have separate links, as the `LatentRule` of their scheme
says: a factor of the gradient, gradients in closed form, rates, and the projection after each update. None touches the forward
pass.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bnas_jax.core.errors import UserError
from bnas_jax.core.layers import is_latent
from bnas_jax.core.schemes import LatentRule, Scheme, Xnor
from bnas_jax.training.schedules import Schedule, constant


class LatentOptimizer(optax.GradientTransformation):
    """An optimizer with the links for latent weights of a scheme; made by `for_latents`.

    scheme: that one. unclipped: the same optimizer without its clipping, with a state of the same structure.
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
        optimizer = cls(*chain)
        optimizer.scheme, optimizer.unclipped = scheme, unclipped
        return optimizer


def for_latents(
    optimizer: optax.GradientTransformation,
    scheme: Scheme = Xnor(),  # noqa: B008 (frozen)
    *,
    clip_norm: float | None = None,
    rate: float | Schedule | None = None,
) -> LatentOptimizer:
    """Any optax optimizer, with the scheme's treatment of latent weights: for `TrainStep` and `SearchStep`.

    In this order: the raw gradient is clipped to `clip_norm` (None: not), that of latent weights is multiplied by the scheme's
    factor, the scheme's gradients in closed form, the update of `optimizer`, the scheme's rates, and the projection.
    rate: the optimizer's learning rate, a number or a function of the step; for a scheme whose closed forms depend on it.
    Raises `UserError` for an optimizer that already does this, and without a rate that is needed.

    >>> optimizer = bnas.for_latents(optax.adam(1e-3), bnas.SCHEMES["bireal"]())
    """
    if isinstance(optimizer, LatentOptimizer):
        raise UserError(
            "this optimizer already treats latent weights; make it anew with scheme=, or wrap the one inside"
        )
    rule = scheme.latents
    if rule.gradients is not None and rate is None:
        raise UserError(
            f"the gradients of {type(scheme).__name__} depend on the learning rate; "
            "write for_latents(optimizer, scheme, rate=...) with the optimizer's own"
        )

    # Before the optimizer: what changes gradients.
    links = []
    clips = clip_norm is not None and clip_norm != float("inf")
    if clips:
        # `flatten` lays all leaves into one vector, where each of hundreds would have kernels of its own.
        links.append(optax.flatten(optax.clip_by_global_norm(clip_norm)))
    if rule.factor is not None:
        links.append(scale_latent_gradients(rule.factor))
    if rule.gradients is not None and rate is not None:
        links.append(latent_gradients(rule.gradients, _schedule(rate)))

    # Behind it: what changes updates. The projection is last, as it needs the whole update.
    links.append(optimizer)
    if rule.rates:
        links.append(scale_rates(rule.rates))
    if rule.project is not None:
        links.append(project_latents(rule.project))

    # An identity takes the place of the clipping, so that both chains can use one state.
    unclipped = list(links)
    if clips:
        unclipped[0] = optax.flatten(optax.identity())
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
    """SGD as in PyTorch, with the scheme's treatment of latent weights. Rates and momenta are numbers or functions of the step.

    Weight decay is added to the gradient behind the scheme's factor, as in the authors' code. decayed: see `with_decay`.

    >>> optimizer = bnas.latent_sgd(optax.cosine_decay_schedule(0.025, 1000), weight_decay=3e-4)
    """
    descent = sgd(_schedule(learning_rate), _schedule(momentum), nesterov=nesterov)
    return for_latents(
        with_decay(descent, weight_decay=weight_decay, decayed=decayed),
        scheme,
        clip_norm=clip_norm,
        rate=learning_rate,
    )


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
    """Adam as in PyTorch, where weight decay is L2 regularisation; otherwise as `latent_sgd`."""
    descent = optax.adam(_schedule(learning_rate), b1=beta1, b2=beta2, eps=eps)
    return for_latents(
        with_decay(descent, weight_decay=weight_decay, decayed=decayed),
        scheme,
        clip_norm=clip_norm,
        rate=learning_rate,
    )


def with_decay(
    descent: optax.GradientTransformation, weight_decay: float, decayed: str = "all"
) -> optax.GradientTransformation:
    """An elementwise optimizer, with weight decay added to the gradient before it.

    decayed: `all` parameters; the `kernels` of convolutions and what is learned beside them, see `decays`; or those that have
    `moved`, see `decay_of_moved`.
    """
    # The mask needs the names of the parameters, which one flat vector has not.
    if decayed == "kernels":
        mask = lambda tree: jax.tree_util.tree_map_with_path(decays, tree)
        decay = optax.add_decayed_weights(weight_decay, mask=mask)
        return optax.chain(decay, optax.flatten(descent))

    if decayed == "moved":
        decay = decay_of_moved(weight_decay)
    else:
        decay = optax.add_decayed_weights(weight_decay)
    return optax.flatten(optax.chain(decay, descent))


def decays(path: tuple, leaf: jax.Array) -> bool:
    """Whether weight decay of `kernels` includes a parameter: not BN, biases, the slopes of PReLUs and dense layers.

    That is ReActNet's choice, in whose code the learned shifts have four axes as kernels have (docs/schemes.md).
    """
    name = path[-1].key
    # Not by the axes alone: a factor of XNOR-Net++'s Gamma has two as well.
    dense = name == "kernel" and leaf.ndim == 2
    return name not in ("scale", "bias", "slope") and not dense


def check_latents(optimizer: optax.GradientTransformation, scheme: Scheme) -> None:
    """`UserError` for an optimizer without the scheme's treatment of latent weights, or with that of another scheme."""
    # A scheme's name, or its class without the brackets.
    if not isinstance(scheme, Scheme):
        raise UserError(f"scheme must be an object such as Xnor(), got {scheme!r}")
    followed = getattr(optimizer, "scheme", None)
    # Schemes first: equal ones may have unequal rules, whose functions may be made anew for each.
    if followed == scheme:
        return

    # Schemes of other names may have the same rule, such as none.
    rule = LatentRule()
    if followed is not None:
        rule = followed.latents
    if rule != scheme.latents:
        name = type(scheme).__name__
        rate = ""
        if scheme.latents.gradients is not None:
            rate = ", rate=rate"
        raise UserError(
            f"the optimizer does not treat latent weights as {name} does; "
            f"write latent_sgd(rate, scheme=scheme) with the network's scheme, or for_latents(inner, scheme{rate}) with"
            " an optax optimizer inside"
        )


def on_latents(function, tree, *rest):
    """A tree of parameters with `function` applied to each latent weight; the other leaves as they are.

    rest: trees of the same structure, whose leaves are further arguments.
    """

    def on_leaf(path, leaf, *others):
        if not is_latent(path[-1].key):
            return leaf
        return function(leaf, *others)

    return jax.tree_util.tree_map_with_path(on_leaf, tree, *rest)


def kernels_always_zero(params, scheme: Scheme) -> list[str]:
    """The paths of latent weights that the scheme's projection makes zero (`Scheme.always_zero`), in a tree of shapes."""
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if is_latent(path[-1].key) and scheme.always_zero(leaf.shape):
            found.append("/".join(part.key for part in path))
    return found


def project_params(params, rule: LatentRule):
    """Parameters with their latent weights projected, as before the first forward pass of the released code."""
    if rule.project is None:
        return params
    return on_latents(rule.project, params)


def scale_latent_gradients(
    factor: Callable[[tuple[int, ...]], float],
) -> optax.GradientTransformation:
    """Multiplies the gradients of latent weights by a factor of their shape (`LatentRule.factor`)."""
    scaled = lambda gradient: gradient * factor(gradient.shape)
    return optax.stateless(lambda grads, _: on_latents(scaled, grads))


class StepCount(NamedTuple):
    """step: the number of updates."""

    step: jax.Array


def latent_gradients(gradients: Callable, rate: Schedule) -> optax.GradientTransformation:
    """Replaces the gradients of modules that have latent weights by those of `LatentRule.gradients`."""

    def init(params):
        del params
        return StepCount(jnp.zeros((), jnp.int32))

    def update(grads, state, params):
        at_step = rate(state.step)
        of_module = lambda grads, params: gradients(params, grads, at_step)
        closed = on_latent_modules(of_module, grads, params)
        return closed, StepCount(state.step + 1)

    return optax.GradientTransformation(init, update)


def scale_rates(rates: Mapping[str, float]) -> optax.GradientTransformation:
    """Multiplies updates in modules with latent weights, each by the factor of its name in `rates` (`LatentRule.rates`)."""

    def of_module(updates):
        scaled = dict(updates)
        for name, factor in rates.items():
            if name in updates:
                scaled[name] = factor * updates[name]
        return scaled

    return optax.stateless(lambda updates, _: on_latent_modules(of_module, updates))


def on_latent_modules(function, tree, *rest):
    """A tree of parameters with `function` applied to the dict of each module with a parameter `latent`; the rest as it is.

    Edges computed together (`latent_TYPE`) stay as they are: a scheme with `gradients` or `rates` has batches_edges = False.
    rest: trees of the same structure, whose dicts are further arguments.
    """
    if not isinstance(tree, Mapping):
        return tree
    # From the leaves up: modules may contain modules.
    inner = {}
    for name, value in tree.items():
        others = [other[name] for other in rest]
        inner[name] = on_latent_modules(function, value, *others)
    if "latent" in inner:
        return function(inner, *rest)
    return inner


def project_latents(project: Callable[[jax.Array], jax.Array]) -> optax.GradientTransformation:
    """Changes the updates so that the updated latent weights are projected. The last link of a chain."""

    # optax adds the result to the parameters, which are then the projected ones.
    def update(updates, params):
        # u: updates, p: parameters.
        return on_latents(lambda u, p: project(p + u) - p, updates, params)

    return optax.stateless(update)


class MomentumState(NamedTuple):
    """step: the number of updates. trace: the momentum, a tree like the parameters."""

    step: jax.Array
    trace: Any


def sgd(
    learning_rate: Schedule, momentum: Schedule, *, nesterov: bool = False
) -> optax.GradientTransformation:
    """SGD as in PyTorch, with scheduled momentum: v = m v + g, update = -lr v, or -lr (g + m v) with Nesterov's."""

    def init(params):
        trace = jax.tree.map(jnp.zeros_like, params)
        return MomentumState(step=jnp.zeros((), jnp.int32), trace=trace)

    def update(grads, state, params=None):
        del params
        rate, decay = learning_rate(state.step), momentum(state.step)

        # g: gradients, v: momenta, d: descents. Schedules are float32, which must not widen weights of fewer bits.
        moved = lambda g, v: (decay * v + g).astype(v.dtype)
        trace = jax.tree.map(moved, grads, state.trace)
        descent = trace
        if nesterov:
            ahead = lambda g, v: g + decay * v
            descent = jax.tree.map(ahead, grads, trace)
        step = lambda d: (-rate * d).astype(d.dtype)
        updates = jax.tree.map(step, descent)
        return updates, MomentumState(step=state.step + 1, trace=trace)

    return optax.GradientTransformation(init, update)


class MovedState(NamedTuple):
    """moved: for each weight, whether it has had a gradient in any step."""

    moved: Any


def decay_of_moved(weight_decay: float) -> optax.GradientTransformation:
    """Weight decay of the weights that have had a gradient; those of layers that never ran have none, and stay (GDAS)."""

    def init(params):
        never = lambda p: jnp.zeros(p.shape, bool)
        return MovedState(jax.tree.map(never, params))

    # g: gradients, p: parameters, m: whether they have moved.
    def update(grads, state, params):
        moved = jax.tree.map(lambda m, g: m | (g != 0), state.moved, grads)
        decay = lambda g, p, m: g + weight_decay * jnp.where(m, p, 0)
        decayed = jax.tree.map(decay, grads, params, moved)
        return decayed, MovedState(moved)

    return optax.GradientTransformation(init, update)


def alphas_adam(
    learning_rate: float,
    *,
    beta1: float = 0.5,
    beta2: float = 0.999,
    weight_decay: float = 1e-3,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """Adam with L2 regularisation, as DARTS optimizes alpha. clip_norm: to which its gradient is clipped, None: not."""
    rule = optax.adam(learning_rate, b1=beta1, b2=beta2, eps=1e-8)
    return _regularized(rule, weight_decay=weight_decay, clip_norm=clip_norm)


def alphas_sgd(
    learning_rate: float, *, weight_decay: float = 0.0, clip_norm: float | None = None
) -> optax.GradientTransformation:
    """Gradient descent without momentum, as SNAS's code moves alpha on one GPU, there without decay.

    weight_decay: of L2 regularisation. clip_norm: see `alphas_adam`.
    """
    rule = optax.sgd(learning_rate)
    return _regularized(rule, weight_decay=weight_decay, clip_norm=clip_norm)


def _regularized(
    rule: optax.GradientTransformation, *, weight_decay: float, clip_norm: float | None
) -> optax.GradientTransformation:
    """The rule for a gradient that was clipped, and to which L2 regularisation was added."""
    links = []
    if clip_norm is not None:
        links.append(optax.clip_by_global_norm(clip_norm))
    # Before the rule, so that the decay is part of its gradient: not AdamW.
    links.append(optax.add_decayed_weights(weight_decay))
    links.append(rule)
    return optax.chain(*links)


def _schedule(value: float | Schedule) -> Schedule:
    if callable(value):
        return value
    return constant(value)
