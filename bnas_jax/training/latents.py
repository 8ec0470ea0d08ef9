"""The optax transformations for latent weights.

There is one for each field of a scheme's `LatentRule`: a factor of the gradient,
gradients in closed form, learning rates, and the projection after each update. The
forward pass does not depend on them. `layers.is_latent` tells latent weights by name.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from bnas_jax.core.errors import UserError
from bnas_jax.core.layers import is_latent
from bnas_jax.core.schemes import LatentRule, Scheme
from bnas_jax.training.schedules import Schedule


def on_latents(function, tree, *rest):
    """A tree of parameters, with `function` applied to each leaf of latent weights.

    The other leaves stay as they are.

    rest: trees of the same structure, whose leaves are further arguments.
    """

    def on_leaf(path, leaf, *others):
        if not is_latent(path[-1].key):
            return leaf
        return function(leaf, *others)

    return jax.tree_util.tree_map_with_path(on_leaf, tree, *rest)


def on_latent_modules(function, tree, *rest):
    """A tree of parameters, with `function` applied to the dict of each latent module.

    A latent module is a module with a parameter `latent`. Everything else stays as it
    is. Edges that are computed together (`latent_TYPE`) do not occur here: a scheme
    with `gradients` or `rates` has batches_edges = False.

    rest: trees of the same structure, whose dicts are further arguments.
    """
    if not isinstance(tree, Mapping):
        return tree
    # From the leaves up, as modules may contain modules.
    inner = {}
    for name, value in tree.items():
        others = [other[name] for other in rest]
        inner[name] = on_latent_modules(function, value, *others)
    if "latent" in inner:
        return function(inner, *rest)
    return inner


def kernels_always_zero(params, scheme: Scheme) -> list[str]:
    """The paths of latent weights that the scheme's projection always makes zero.

    See `Scheme.always_zero`.

    params: a tree of arrays or of their shapes.
    """
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if is_latent(path[-1].key) and scheme.always_zero(leaf.shape):
            found.append("/".join(part.key for part in path))
    return found


def project_params(params, rule: LatentRule):
    """The parameters with projected latent weights, if the rule has a projection.

    The released code projects them before the first forward pass, too.
    """
    if rule.project is None:
        return params
    return on_latents(rule.project, params)


def scale_latent_gradients(
    factor: Callable[[tuple[int, ...]], float],
) -> optax.GradientTransformation:
    """Multiplies the gradients of latent weights by a factor (`LatentRule.factor`).

    factor: (shape of a latent weight) -> its factor.
    """
    scaled = lambda gradient: gradient * factor(gradient.shape)
    return optax.stateless(lambda grads, _: on_latents(scaled, grads))


class StepCount(NamedTuple):
    """The state of `latent_gradients`.

    step: the number of updates.
    """

    step: jax.Array


def latent_gradients(
    gradients: Callable, rate: Schedule
) -> optax.GradientTransformation:
    """Replaces the gradients of latent modules by those in closed form.

    gradients: `LatentRule.gradients`.
    rate: the learning rate that these gradients depend on.
    """

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
    """Multiplies the updates of latent modules by factors (`LatentRule.rates`).

    rates: {name of a parameter: its factor}. Other updates stay as they are.
    """

    def of_module(updates):
        scaled = dict(updates)
        for name, factor in rates.items():
            if name in updates:
                scaled[name] = factor * updates[name]
        return scaled

    return optax.stateless(lambda updates, _: on_latent_modules(of_module, updates))


def project_latents(
    project: Callable[[jax.Array], jax.Array],
) -> optax.GradientTransformation:
    """Changes the updates so that the updated latent weights are projected.

    It must be the last transformation of a chain.
    """

    # u: updates, p: parameters. optax adds the result to p, which gives project(p + u).
    def update(updates, params):
        if params is None:
            raise UserError(
                "latent weights are projected, which needs them: write "
                "optimizer.update(gradients, state, params)"
            )
        to_projected = lambda u, p: project(p + u) - p
        return on_latents(to_projected, updates, params)

    return optax.stateless(update)
