"""Everything that a run is at a step: what a checkpoint holds and a resumed run goes on from."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from bnas_jax.core.network import Network
from bnas_jax.core.supernet import Supernet
from bnas_jax.search.bnas import Searcher
from bnas_jax.training.guard import Guard
from bnas_jax.training.optimizers import project_params


class Sums(struct.PyTreeNode):
    """Sums over the examples since the epoch began; float32, or float64 in exact runs."""

    loss: jax.Array
    correct: jax.Array
    examples: jax.Array

    @classmethod
    def zeros(cls, dtype) -> "Sums":
        return cls(*(jnp.zeros((), dtype) for _ in range(3)))

    def add(self, loss, correct, examples) -> "Sums":
        """loss: mean over the batch; correct, examples: counts."""
        return Sums(self.loss + loss * examples, self.correct + correct, self.examples + examples)


class TrainState(struct.PyTreeNode):
    """The final training. test_top1: (epochs,), top-1 in % after each epoch, NaN where it is still to come."""

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    sums: Sums
    test_top1: jax.Array
    guard: Guard | None = None

    @property
    def variables(self) -> tuple:
        """What is evaluated."""
        return self.params, self.batch_stats

    @property
    def top1(self) -> jax.Array:
        return self.test_top1


class SearchState(struct.PyTreeNode):
    """The search. history: alpha before the first and after each epoch, (epochs + 1, 14, types) each; valid_top1: (epochs,)."""

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    sums: Sums
    alphas: Any
    alphas_opt_state: Any
    history: Any
    valid_top1: jax.Array
    guard: Guard | None = None

    @property
    def variables(self) -> tuple:
        """What is evaluated."""
        return self.params, self.batch_stats, self.alphas

    @property
    def top1(self) -> jax.Array:
        return self.valid_top1


def initial_variables(model: Network | Supernet, image_shape: tuple[int, ...], seed: int, *alphas) -> dict:
    """{"params", "batch_stats"}, the latent weights projected. image_shape: (H, W, C); alphas: for the supernet alone."""
    key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), 0)
    images = jnp.zeros((1, *image_shape), model.rules.dtype)
    variables = model.init(key, *alphas, images, train=False)
    return {"params": project_params(variables["params"], model.rules), "batch_stats": variables["batch_stats"]}


def create_train_state(
    model: Network, image_shape: tuple[int, ...], optimizer: optax.GradientTransformation, seed: int, num_epochs: int
) -> TrainState:
    """A new run. image_shape: (H, W, C)."""
    return train_state_of(initial_variables(model, image_shape, seed), optimizer, num_epochs, dtype=model.rules.dtype)


def train_state_of(
    variables: Mapping, optimizer: optax.GradientTransformation, num_epochs: int, *, dtype=jnp.float32
) -> TrainState:
    """A new run that begins with {"params", "batch_stats"}. dtype: that of its sums."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        **variables,
        opt_state=optimizer.init(variables["params"]),
        sums=Sums.zeros(dtype),
        test_top1=jnp.full((num_epochs,), jnp.nan, jnp.float32),
        guard=Guard.create(variables["params"]),
    )


def create_search_state(
    model: Supernet,
    searcher: Searcher,
    image_shape: tuple[int, ...],
    optimizer: optax.GradientTransformation,
    alphas_optimizer: optax.GradientTransformation,
    seed: int,
    num_epochs: int,
) -> SearchState:
    """A new search. image_shape: (H, W, C)."""
    dtype = model.rules.dtype
    alphas = searcher.init_alphas(jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), 1))
    variables = initial_variables(model, image_shape, seed, alphas)
    return SearchState(
        step=jnp.zeros((), jnp.int32),
        **variables,
        opt_state=optimizer.init(variables["params"]),
        sums=Sums.zeros(dtype),
        alphas=alphas,
        alphas_opt_state=alphas_optimizer.init(alphas),
        history=jax.tree.map(lambda a: jnp.zeros((num_epochs + 1, *a.shape), a.dtype).at[0].set(a), alphas),
        valid_top1=jnp.full((num_epochs,), jnp.nan, jnp.float32),
        guard=Guard.create(variables["params"]),
    )
