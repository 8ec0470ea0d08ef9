"""The steps of search, training and evaluation: pure functions of a state and a batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from bnas_jax.core.network import Network
from bnas_jax.core.supernet import Supernet
from bnas_jax.search.bnas import Searcher
from bnas_jax.training.devices import average, total
from bnas_jax.training.guard import watch
from bnas_jax.training.state import SearchState, Sums, TrainState

Batch = dict[str, jax.Array]


def cross_entropy(logits: jax.Array, labels: jax.Array, smoothing: float = 0.0) -> jax.Array:
    """Cross-entropy (N,) with targets (1 - smoothing) * onehot + smoothing / classes."""
    log_p = jax.nn.log_softmax(logits)
    hard = -jnp.take_along_axis(log_p, labels[:, None], axis=-1)[:, 0]
    return (1 - smoothing) * hard - smoothing * jnp.mean(log_p, axis=-1)


def hits(logits: jax.Array, labels: jax.Array, k: int = 1) -> jax.Array:
    """1 where the label is among the k classes that score highest, else 0; (N,).

    Of equal scores the first counts as the higher, as in argmax, so that a dead network has no hits for free. NaN is a miss.
    """
    score = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    first = jnp.arange(logits.shape[-1]) < labels[:, None]
    higher = jnp.sum(jnp.logical_not(logits <= score) | ((logits == score) & first), axis=-1)
    return (higher < k).astype(logits.dtype)


def drop_path_rate(step, *, maximum: float, num_epochs: int, steps_per_epoch: int):
    """Drop-path grows linearly with the epoch, from 0 (methods.md D); None where there is none."""
    if maximum == 0:
        return None
    return maximum * (step // steps_per_epoch).astype(jnp.float32) / num_epochs


def accumulate(function: Callable, batch_stats, batch: Batch, parts: int) -> tuple[Any, Any]:
    """(batch statistics, mean of the results) of `function(batch_stats, part, number) -> (batch_stats, results)`, called for
    each of `parts` equal parts of a batch, one after the other."""
    if parts == 1:
        return function(batch_stats, batch, 0)
    divided = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)
    body = lambda batch_stats, numbered: function(batch_stats, numbered[1], numbered[0])
    shapes = jax.eval_shape(body, batch_stats, jax.tree.map(lambda x: x[0], (jnp.arange(parts), divided)))[1]
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

    def add(carry, numbered):
        batch_stats, results = body(carry[0], numbered)
        return (batch_stats, jax.tree.map(jnp.add, carry[1], results)), None

    (batch_stats, sums), _ = jax.lax.scan(add, (batch_stats, zeros), (jnp.arange(parts), divided))
    return batch_stats, jax.tree.map(lambda s: s / parts, sums)


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    model: Network,
    optimizer: optax.GradientTransformation,
    smoothing: float,
    drop_path: float,
    num_epochs: int,
    steps_per_epoch: int,
    seed: int,
    microbatches: int = 1,
    axis: str | None = None,
) -> TrainState:
    """One SGD step of the final network. batch: the device's own examples. axis: that of the devices, to average over."""
    rate = drop_path_rate(state.step, maximum=drop_path, num_epochs=num_epochs, steps_per_epoch=steps_per_epoch)
    step_key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), state.step)

    def gradient(batch_stats, part, number):
        key = jax.random.fold_in(step_key, number) if microbatches > 1 else step_key

        def loss_of(params):
            variables = {"params": params, "batch_stats": batch_stats}
            logits, new = model.apply(
                variables, part["image"], train=True, drop_path_rate=rate, rngs={"drop_path": key}, mutable=["batch_stats"]
            )
            loss = jnp.mean(cross_entropy(logits, part["label"], smoothing))
            return loss, (new["batch_stats"], jnp.sum(hits(logits, part["label"])))

        (loss, (batch_stats, correct)), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        return batch_stats, (grads, loss, correct)

    of_batch = accumulate(gradient, state.batch_stats, batch, microbatches)
    batch_stats, (grads, loss, correct) = average(of_batch, axis)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    return state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=batch_stats,
        opt_state=opt_state,
        sums=_counted(state.sums, loss, correct, batch, microbatches, axis),
        guard=None if state.guard is None else watch(state.guard, grads, state.step),
    )


def alphas_step(
    state: SearchState,
    batch: Batch,
    *,
    model: Supernet,
    searcher: Searcher,
    optimizer: optax.GradientTransformation,
    steps_per_epoch: int,
    microbatches: int = 1,
    axis: str | None = None,
) -> SearchState:
    """The first half of a step of the search: alpha, on validation data (DARTS, Algorithm 1, line 1).

    batch: the device's own examples. axis: that of the devices, to average over.
    """
    epoch = state.step // steps_per_epoch

    def gradient(batch_stats, part, _):
        loss_of = lambda params, alphas: _supernet_loss(model, params, alphas, batch_stats, part)
        grads, (new, _) = searcher.alpha_gradient(loss_of, state.params, state.alphas, epoch)
        return new, grads

    batch_stats, grads = average(accumulate(gradient, state.batch_stats, batch, microbatches), axis)
    updates, opt_state = optimizer.update(grads, state.alphas_opt_state, state.alphas)
    alphas = optax.apply_updates(state.alphas, updates)
    return state.replace(batch_stats=batch_stats, alphas=alphas, alphas_opt_state=opt_state)


def weights_step(
    state: SearchState,
    batch: Batch,
    *,
    model: Supernet,
    optimizer: optax.GradientTransformation,
    microbatches: int = 1,
    axis: str | None = None,
) -> SearchState:
    """The second half: the weights, on training data, with the new alpha (DARTS, Algorithm 1, line 2). See `alphas_step`."""

    def gradient(batch_stats, part, _):
        loss_of = lambda params: _supernet_loss(model, params, state.alphas, batch_stats, part)
        (loss, (new, correct)), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        return new, (grads, loss, correct)

    batch_stats, (grads, loss, correct) = average(accumulate(gradient, state.batch_stats, batch, microbatches), axis)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    return state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=batch_stats,
        opt_state=opt_state,
        sums=_counted(state.sums, loss, correct, batch, microbatches, axis),
        guard=None if state.guard is None else watch(state.guard, grads, state.step),
    )


def _supernet_loss(model: Supernet, params, alphas, batch_stats, batch: Batch):
    """(mean loss, (new batch statistics, number of hits))"""
    variables = {"params": params, "batch_stats": batch_stats}
    logits, new = model.apply(variables, alphas, batch["image"], train=True, mutable=["batch_stats"])
    loss = jnp.mean(cross_entropy(logits, batch["label"]))
    return loss, (new["batch_stats"], jnp.sum(hits(logits, batch["label"])))


def _counted(sums: Sums, loss, correct, batch: Batch, microbatches: int, axis: str | None) -> Sums:
    """loss, correct: means over microbatches and devices."""
    parts = microbatches * (jax.lax.axis_size(axis) if axis else 1)
    examples = batch["label"].shape[0] * (parts // microbatches)
    return sums.add(loss, jnp.round(correct * parts), examples)


class Evaluation(struct.PyTreeNode):
    """Sums over the examples of weight 1."""

    loss: jax.Array
    top1: jax.Array
    top5: jax.Array
    examples: jax.Array


def evaluation_step(model: Network | Supernet, variables: Any, batch: Batch, *alphas, axis: str | None = None) -> Evaluation:
    """Sums of a batch whose padding has weight 0, over all devices. alphas: for the supernet alone."""
    logits: Any = model.apply(variables, *alphas, batch["image"], train=False)
    labels, weight = batch["label"], batch["weight"].astype(logits.dtype)
    weighted = lambda values: jnp.sum(jnp.where(weight > 0, values * weight, 0))
    sums = Evaluation(
        loss=weighted(cross_entropy(logits, labels)),
        top1=weighted(hits(logits, labels)),
        top5=weighted(hits(logits, labels, min(5, logits.shape[-1]))),
        examples=jnp.sum(weight),
    )
    return total(sums, axis)
