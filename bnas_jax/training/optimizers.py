"""Optimizers, as chains in which every rule of the method is one link (methods.md A2, D).

Latent weights, told by their names, have two links of their own: the factor c of the XNOR-Net and BNAS codes, and the
projection after each update. Neither touches the forward pass.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from bnas_jax.core import binarize
from bnas_jax.core.rules import Rules
from bnas_jax.settings import AlphaSettings, OptimizerSettings, SearchSettings, TrainSettings, WeightSettings
from bnas_jax.training import schedules
from bnas_jax.training.schedules import Schedule


def is_latent(path) -> bool:
    """Whether the parameter at a tree path is a latent weight, by its name (`layers.Conv`, `supernet.MixedEdges`)."""
    return path[-1].key.startswith("latent")


def on_latents(function, tree, *rest):
    """`function` on each latent weight of a tree of parameters, the other leaves as they are."""
    return jax.tree_util.tree_map_with_path(lambda path, x, *r: function(x, *r) if is_latent(path) else x, tree, *rest)


def project_params(params, rules: Rules):
    """Parameters with their latent weights projected, as the first forward pass of the released code does."""
    return on_latents(lambda p: binarize.project(p, rules.depthwise_center), params)


def scale_latent_gradients(rules: Rules) -> optax.GradientTransformation:
    """Multiplies the gradients of latent weights by c, `binarize.gradient_factor`."""
    factor = functools.partial(binarize.gradient_factor, depthwise_center=rules.depthwise_center)
    return optax.stateless(lambda grads, _: on_latents(lambda g: g * factor(g.shape), grads))


def project_latents(rules: Rules) -> optax.GradientTransformation:
    """Changes the updates so that the updated latent weights are projected. The last link of a chain."""

    def update(updates, params):
        return on_latents(lambda u, p: binarize.project(p + u, rules.depthwise_center) - p, updates, params)

    return optax.stateless(update)


class MomentumState(NamedTuple):
    step: jax.Array
    trace: optax.Updates


def sgd(learning_rate: Schedule, momentum: Schedule) -> optax.GradientTransformation:
    """SGD as in PyTorch, with scheduled momentum: v = m v + g, update = -lr v."""

    def init(params):
        return MomentumState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(grads, state, params=None):
        del params
        rate, decay = learning_rate(state.step), momentum(state.step)
        trace = jax.tree.map(lambda g, v: (decay * v + g).astype(v.dtype), grads, state.trace)
        updates = jax.tree.map(lambda v: (-rate * v).astype(v.dtype), trace)
        return updates, MomentumState(state.step + 1, trace)

    return optax.GradientTransformation(init, update)


def weights_optimizer(
    settings: OptimizerSettings | WeightSettings, learning_rate: Schedule, momentum: Schedule, rules: Rules
) -> optax.GradientTransformation:
    """Clipping of the raw gradient, the factor c where the rule has it, weight decay, SGD, projection: in this order."""
    clip = settings.clip_norm
    # `flatten` lays all leaves into one vector, where each of hundreds would have kernels of its own to compile and start.
    links = [optax.flatten(optax.clip_by_global_norm(clip))] if clip is not None and clip != float("inf") else []
    if rules.weight_gradient in binarize.SCALED_GRADIENTS:
        links.append(scale_latent_gradients(rules))
    descent = optax.chain(optax.add_decayed_weights(settings.weight_decay), sgd(learning_rate, momentum))
    links += [optax.flatten(descent), project_latents(rules)]
    return optax.chain(*links)


def alphas_optimizer(settings: AlphaSettings) -> optax.GradientTransformation:
    """Adam with L2 regularisation, as DARTS optimizes alpha."""
    return optax.chain(
        optax.add_decayed_weights(settings.weight_decay),
        optax.adam(settings.learning_rate, b1=settings.beta1, b2=settings.beta2, eps=1e-8),
    )


def for_search(settings: SearchSettings, steps_per_epoch: int) -> optax.GradientTransformation:
    """The optimizer of the supernet's weights."""
    rate = schedules.search_schedule(settings.weights, settings.num_epochs, steps_per_epoch)
    momentum = schedules.constant(settings.weights.momentum)
    return weights_optimizer(settings.weights, rate, momentum, settings.layer_rules())


def for_training(settings: TrainSettings, steps_per_epoch: int) -> optax.GradientTransformation:
    """The optimizer of the final network's weights."""
    rate, momentum = schedules.final_schedules(settings.optimizer, settings.num_epochs, steps_per_epoch)
    return weights_optimizer(settings.optimizer, rate, momentum, settings.layer_rules())
