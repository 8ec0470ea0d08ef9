"""The steps of search, training and evaluation: pure functions of a state and a batch."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from bnas_jax.core.network import Network
from bnas_jax.core.supernet import Supernet
from bnas_jax.search.bnas import Searcher
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
) -> TrainState:
    """One SGD step of the final network."""
    rate = drop_path_rate(state.step, maximum=drop_path, num_epochs=num_epochs, steps_per_epoch=steps_per_epoch)
    key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), state.step)

    def loss_of(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, new = model.apply(
            variables, batch["image"], train=True, drop_path_rate=rate, rngs={"drop_path": key}, mutable=["batch_stats"]
        )
        loss = jnp.mean(cross_entropy(logits, batch["label"], smoothing))
        return loss, (new["batch_stats"], logits)

    (loss, (batch_stats, logits)), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    return state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=batch_stats,
        opt_state=opt_state,
        sums=_counted(state.sums, loss, logits, batch["label"]),
    )


def search_step(
    state: SearchState,
    train: Batch,
    valid: Batch,
    *,
    model: Supernet,
    searcher: Searcher,
    optimizer: optax.GradientTransformation,
    alphas_optimizer: optax.GradientTransformation,
    steps_per_epoch: int,
) -> SearchState:
    """One step of the search: alpha on the validation batch, then the weights on the training batch (DARTS, Algorithm 1)."""

    def task_loss(params, alphas, batch_stats, batch):
        variables = {"params": params, "batch_stats": batch_stats}
        logits, new = model.apply(variables, alphas, batch["image"], train=True, mutable=["batch_stats"])
        return jnp.mean(cross_entropy(logits, batch["label"])), (new["batch_stats"], logits)

    epoch = state.step // steps_per_epoch
    alpha_grads, (batch_stats, _) = searcher.alpha_gradient(
        lambda params, alphas: task_loss(params, alphas, state.batch_stats, valid), state.params, state.alphas, epoch
    )
    updates, alphas_opt_state = alphas_optimizer.update(alpha_grads, state.alphas_opt_state, state.alphas)
    alphas = optax.apply_updates(state.alphas, updates)

    (loss, (batch_stats, logits)), grads = jax.value_and_grad(task_loss, has_aux=True)(state.params, alphas, batch_stats, train)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    return state.replace(
        step=state.step + 1,
        params=optax.apply_updates(state.params, updates),
        batch_stats=batch_stats,
        opt_state=opt_state,
        sums=_counted(state.sums, loss, logits, train["label"]),
        alphas=alphas,
        alphas_opt_state=alphas_opt_state,
    )


def _counted(sums: Sums, loss, logits, labels) -> Sums:
    return sums.add(loss, jnp.sum(hits(logits, labels)), labels.shape[0])


class Evaluation(struct.PyTreeNode):
    """Sums over the examples of weight 1."""

    loss: jax.Array
    top1: jax.Array
    top5: jax.Array
    examples: jax.Array


def evaluation_step(model: Network | Supernet, variables: Any, batch: Batch, *alphas) -> Evaluation:
    """Sums of a batch whose padding has weight 0. alphas: for the supernet alone."""
    logits: Any = model.apply(variables, *alphas, batch["image"], train=False)
    labels, weight = batch["label"], batch["weight"].astype(logits.dtype)
    total = lambda values: jnp.sum(jnp.where(weight > 0, values * weight, 0))
    return Evaluation(
        loss=total(cross_entropy(logits, labels)),
        top1=total(hits(logits, labels)),
        top5=total(hits(logits, labels, min(5, logits.shape[-1]))),
        examples=jnp.sum(weight),
    )
