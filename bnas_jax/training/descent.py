"""SGD with a scheduled momentum, and weight decay of selected parameters.

These treat latent weights like all others; `latents` has the rest.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from bnas_jax.core.checks import choice
from bnas_jax.training.schedules import Schedule


class MomentumState(NamedTuple):
    """The state of `sgd`.

    step: the number of updates so far, a scalar.
    trace: the momentum v, a tree like the parameters.
    """

    step: jax.Array
    trace: Any


def sgd(
    learning_rate: Schedule, momentum: Schedule, *, nesterov: bool = False
) -> optax.GradientTransformation:
    """SGD as in PyTorch, with scheduled momentum.

    With gradient g, momentum m and learning rate lr: v = m v + g, and the update is
    -lr v, or -lr (g + m v) with Nesterov's momentum.
    """

    def init(params):
        trace = jax.tree.map(jnp.zeros_like, params)
        return MomentumState(step=jnp.zeros((), jnp.int32), trace=trace)

    def update(grads, state, params=None):
        del params
        rate, decay = learning_rate(state.step), momentum(state.step)

        # v = m v + g. Schedules are float32: keep the number type of the weights.
        moved = lambda g, v: (decay * v + g).astype(v.dtype)
        trace = jax.tree.map(moved, grads, state.trace)

        # The direction d: v, or g + m v.
        descent = trace
        if nesterov:
            ahead = lambda g, v: g + decay * v
            descent = jax.tree.map(ahead, grads, trace)

        # The update: -lr d.
        step = lambda d: (-rate * d).astype(d.dtype)
        updates = jax.tree.map(step, descent)
        return updates, MomentumState(step=state.step + 1, trace=trace)

    return optax.GradientTransformation(init, update)


def with_decay(
    descent: optax.GradientTransformation, weight_decay: float, decayed: str = "all"
) -> optax.GradientTransformation:
    """The optimizer `descent`, with weight decay added to the gradient before it.

    decayed: which parameters decay: `all`; `kernels`, see `decays`; or `moved`, see
        `decay_of_moved`. Raises `UserError` for any other value.
    """
    choice("decayed", decayed, choices=("all", "kernels", "moved"))
    if decayed == "kernels":
        mask = lambda tree: jax.tree_util.tree_map_with_path(decays, tree)
        decay = optax.add_decayed_weights(weight_decay, mask=mask)
    elif decayed == "moved":
        decay = decay_of_moved(weight_decay)
    else:
        decay = optax.add_decayed_weights(weight_decay)
    return optax.chain(decay, descent)


def decays(path: tuple, leaf: jax.Array) -> bool:
    """Whether a parameter decays with `decayed="kernels"`.

    Batch norm, biases, the slopes of PReLUs, and dense layers do not. The learned
    shifts of ReActNet do, as in its code, where they have four axes like kernels
    (docs/recipes.md).

    path: the path of the parameter in the tree.
    """
    name = path[-1].key
    # The number of axes is not enough: a factor of XNOR-Net++'s Gamma also has two.
    dense = name == "kernel" and leaf.ndim == 2
    return name not in ("scale", "bias", "slope") and not dense


class MovedState(NamedTuple):
    """The state of `decay_of_moved`.

    moved: for each weight, whether it has had a gradient in any step; a tree like the
        parameters.
    """

    moved: Any


def decay_of_moved(weight_decay: float) -> optax.GradientTransformation:
    """Weight decay of those weights that have had a gradient so far (GDAS).

    The weights of layers that have never run have had no gradient, and do not decay.
    """

    def init(params):
        never = lambda p: jnp.zeros(p.shape, bool)
        return MovedState(jax.tree.map(never, params))

    # g: gradients, p: parameters, m: whether they have had a gradient.
    def update(grads, state, params):
        has_moved = lambda m, g: m | (g != 0)
        moved = jax.tree.map(has_moved, state.moved, grads)
        decay = lambda g, p, m: g + weight_decay * jnp.where(m, p, 0)
        decayed = jax.tree.map(decay, grads, params, moved)
        return decayed, MovedState(moved)

    return optax.GradientTransformation(init, update)
