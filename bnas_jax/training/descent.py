"""The rules that know nothing of latent weights: SGD with a scheduled momentum, and
weight decay of some parameters.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bnas_jax.training.schedules import Schedule


class MomentumState(NamedTuple):
    """step: the number of updates. trace: the momentum, a tree like the parameters."""

    step: jax.Array
    trace: Any


def sgd(
    learning_rate: Schedule, momentum: Schedule, *, nesterov: bool = False
) -> optax.GradientTransformation:
    """SGD as in PyTorch, with scheduled momentum: v = m v + g, update = -lr v, or -lr
    (g + m v) with Nesterov's.
    """

    def init(params):
        trace = jax.tree.map(jnp.zeros_like, params)
        return MomentumState(step=jnp.zeros((), jnp.int32), trace=trace)

    def update(grads, state, params=None):
        del params
        rate, decay = learning_rate(state.step), momentum(state.step)

        # g: gradients, v: momenta, d: descents. Schedules are float32, which must not
        # widen weights of fewer bits.
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


def with_decay(
    descent: optax.GradientTransformation, weight_decay: float, decayed: str = "all"
) -> optax.GradientTransformation:
    """An elementwise optimizer, with weight decay added to the gradient before it.

    decayed: `all` parameters; the `kernels` of convolutions and what is learned beside
    them, see `decays`; or those that have `moved`, see `decay_of_moved`.
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
    """Whether weight decay of `kernels` includes a parameter: not BN, biases, the
    slopes of PReLUs and dense layers.

    That is ReActNet's choice, in whose code the learned shifts have four axes as
    kernels have (docs/schemes.md).
    """
    name = path[-1].key
    # Not by the axes alone: a factor of XNOR-Net++'s Gamma has two as well.
    dense = name == "kernel" and leaf.ndim == 2
    return name not in ("scale", "bias", "slope") and not dense


class MovedState(NamedTuple):
    """moved: for each weight, whether it has had a gradient in any step."""

    moved: Any


def decay_of_moved(weight_decay: float) -> optax.GradientTransformation:
    """Weight decay of the weights that have had a gradient; those of layers that never
    ran have none, and stay (GDAS).
    """

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
