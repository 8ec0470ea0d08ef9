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


def accumulate(function: Callable, batch: Batch, parts: int) -> Any:
    """The mean of the results of `function(part, number)`, called for each of `parts` equal parts of a batch, one after the
    other. Running statistics among them begin for each part as they were, so that their mean is moved once."""
    if parts == 1:
        return function(batch, 0)
    divided = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)
    numbers = jnp.arange(parts)
    first = jax.tree.map(lambda x: x[0], (divided, numbers))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(function, *first))

    def add(sums, numbered):
        return jax.tree.map(jnp.add, sums, function(*numbered)), None

    sums, _ = jax.lax.scan(add, zeros, (divided, numbers))
    return jax.tree.map(lambda s: s / parts, sums)


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

    def gradient(part, number):
        key = jax.random.fold_in(step_key, number) if microbatches > 1 else step_key

        def loss_of(params):
            variables = {"params": params, "batch_stats": state.batch_stats}
            logits, new = model.apply(
                variables, part["image"], train=True, drop_path_rate=rate, rngs={"drop_path": key}, mutable=["batch_stats"]
            )
            loss = jnp.mean(cross_entropy(logits, part["label"], smoothing))
            return loss, (new["batch_stats"], jnp.sum(hits(logits, part["label"])))

        (loss, (batch_stats, correct)), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        return batch_stats, (grads, loss, correct)

    of_batch = accumulate(gradient, batch, microbatches)
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


def search_half(
    state: SearchState,
    batch: Batch,
    for_alphas: bool | jax.Array,
    *,
    model: Supernet,
    searcher: Searcher,
    optimizer: optax.GradientTransformation,
    alphas_optimizer: optax.GradientTransformation,
    steps_per_epoch: int,
    microbatches: int = 1,
    axis: str | None = None,
) -> SearchState:
    """One half of a step of the search (DARTS, Algorithm 1): the first, `for_alphas`, moves alpha on validation data (Eq. 5),
    the second the weights on training data, with the new alpha.

    for_alphas: known while tracing, or an array, known only when it runs: both halves are then one program.
    batch: the device's own examples. axis: that of the devices, to average over.
    """
    epoch = state.step // steps_per_epoch
    known = isinstance(for_alphas, bool)

    def gradient(part, _):
        def objective(params, alphas):
            variables = {"params": params, "batch_stats": state.batch_stats}
            options: dict[str, Any] = {"train": True, "for_alphas": None if known else for_alphas}
            logits, new = model.apply(variables, alphas, part["image"], mutable=["batch_stats"], **options)
            loss = jnp.mean(cross_entropy(logits, part["label"]))
            correct = jnp.sum(hits(logits, part["label"]))
            return loss + searcher.regularizer(alphas, epoch), (new["batch_stats"], loss, correct)

        grads, (new, loss, correct) = jax.grad(objective, (0, 1), has_aux=True)(state.params, state.alphas)
        # What is not returned is not computed.
        wanted = grads if not known else (None, grads[1]) if for_alphas else (grads[0], None)
        return new, (wanted, loss, correct)

    of_batch = accumulate(gradient, batch, microbatches)
    batch_stats, ((params_grads, alphas_grads), loss, correct) = average(of_batch, axis)

    def move_alphas(state: SearchState) -> SearchState:
        updates, opt_state = alphas_optimizer.update(alphas_grads, state.alphas_opt_state, state.alphas)
        return state.replace(alphas=optax.apply_updates(state.alphas, updates), alphas_opt_state=opt_state)

    def move_weights(state: SearchState) -> SearchState:
        updates, opt_state = optimizer.update(params_grads, state.opt_state, state.params)
        return state.replace(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            opt_state=opt_state,
            sums=_counted(state.sums, loss, correct, batch, microbatches, axis),
            guard=None if state.guard is None else watch(state.guard, params_grads, state.step),
        )

    return either(for_alphas, move_alphas, move_weights, state.replace(batch_stats=batch_stats))


def either(flag: bool | jax.Array, first: Callable, second: Callable, *arguments):
    """`first(*arguments)` where the flag is true, else `second(*arguments)`."""
    if isinstance(flag, bool):
        return (first if flag else second)(*arguments)
    return jax.lax.cond(flag, first, second, *arguments)


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
