"""What the optimizer does to latent weights: links of an optax chain, one for each
entry of a scheme's `LatentRule`.

Latent weights are the parameters that `layers.is_latent` knows by name. The links are a
factor of the gradient, gradients in closed form, rates, and the projection after each
update. None touches the forward pass.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from bnas_jax.core.layers import is_latent
from bnas_jax.core.schemes import LatentRule, Scheme
from bnas_jax.training.schedules import Schedule


def on_latents(function, tree, *rest):
    """A tree of parameters with `function` applied to each latent weight; the other
    leaves as they are.

    rest: trees of the same structure, whose leaves are further arguments.
    """

    def on_leaf(path, leaf, *others):
        if not is_latent(path[-1].key):
            return leaf
        return function(leaf, *others)

    return jax.tree_util.tree_map_with_path(on_leaf, tree, *rest)


def on_latent_modules(function, tree, *rest):
    """A tree of parameters with `function` applied to the dict of each module with a
    parameter `latent`; the rest as it is.

    Edges computed together (`latent_TYPE`) stay as they are: a scheme with `gradients`
    or `rates` has batches_edges = False.
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


def kernels_always_zero(params, scheme: Scheme) -> list[str]:
    """The paths of latent weights that the scheme's projection makes zero
    (`Scheme.always_zero`), in a tree of shapes.
    """
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if is_latent(path[-1].key) and scheme.always_zero(leaf.shape):
            found.append("/".join(part.key for part in path))
    return found


def project_params(params, rule: LatentRule):
    """Parameters with their latent weights projected, as before the first forward pass
    of the released code.
    """
    if rule.project is None:
        return params
    return on_latents(rule.project, params)


def scale_latent_gradients(
    factor: Callable[[tuple[int, ...]], float],
) -> optax.GradientTransformation:
    """Multiplies the gradients of latent weights by a factor of their shape
    (`LatentRule.factor`).
    """
    scaled = lambda gradient: gradient * factor(gradient.shape)
    return optax.stateless(lambda grads, _: on_latents(scaled, grads))


class StepCount(NamedTuple):
    """step: the number of updates."""

    step: jax.Array


def latent_gradients(
    gradients: Callable, rate: Schedule
) -> optax.GradientTransformation:
    """Replaces the gradients of modules that have latent weights by those of
    `LatentRule.gradients`.
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
    """Multiplies updates in modules with latent weights, each by the factor of its name
    in `rates` (`LatentRule.rates`).
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

    The last link of a chain.
    """

    # optax adds the result to the parameters, which are then the projected ones.
    def update(updates, params):
        # u: updates, p: parameters.
        return on_latents(lambda u, p: project(p + u) - p, updates, params)

    return optax.stateless(update)
