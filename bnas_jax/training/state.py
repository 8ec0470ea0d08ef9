"""`TrainState` and `SearchState`: everything that the next steps of a run depend on.

A checkpoint saves the state, and a resumed run continues from it.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct

from bnas_jax.core.arithmetic import plain_form
from bnas_jax.core.checks import choice
from bnas_jax.core.errors import UserError, shown
from bnas_jax.core.first_weights import FIRST_WEIGHTS, PYTORCH, redrawn
from bnas_jax.core.stack import check_image_shape
from bnas_jax.core.supernet import Supernet
from bnas_jax.runtime.steps import once_options
from bnas_jax.training.divergence import Guard
from bnas_jax.training.latents import project_params


class Sums(struct.PyTreeNode):
    """Sums over the training examples of the epoch so far, scalars.

    They are float32, or float64 in runs of that precision.
    """

    loss: jax.Array
    correct: jax.Array
    examples: jax.Array

    @classmethod
    def zeros(cls, dtype) -> "Sums":
        """The sums before the first example."""
        # Three arrays and not one, because a step donates its buffers, and a buffer can
        # be donated only once.
        loss, correct, examples = (jnp.zeros((), dtype) for _ in range(3))
        return cls(loss=loss, correct=correct, examples=examples)

    def add(self, loss, correct, examples) -> "Sums":
        """The sums with a batch added.

        loss: the mean loss of the batch.
        correct, examples: the numbers of correct and of all examples of the batch.
        """
        return Sums(
            loss=self.loss + loss * examples,
            correct=self.correct + correct,
            examples=self.examples + examples,
        )


class TrainState(struct.PyTreeNode):
    """The state of the final training."""

    # The number of finished steps, int32.
    step: jax.Array
    # The seed of all random numbers in the steps, uint32.
    seed: jax.Array
    # The weights, the running statistics of batch norm, and the optimizer's state.
    params: Any
    batch_stats: Any
    opt_state: Any
    # Loss and hits of the epoch so far.
    sums: Sums
    # (epochs,), top-1 in % after each epoch, NaN for epochs to come.
    test_top1: jax.Array
    # The sizes of the gradients, to explain a divergence.
    guard: Guard | None = None

    @property
    def variables(self) -> dict:
        """The variables to evaluate the network with."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def top1(self) -> jax.Array:
        """The accuracies by which epochs are compared."""
        return self.test_top1


class SearchState(struct.PyTreeNode):
    """The state of the search; fields as in `TrainState`, and those of alpha."""

    step: jax.Array
    seed: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    sums: Sums
    # {"normal", "reduce"}, (14, types) each; only {"normal"} with a fixed reduction
    # cell, {} for a searcher without alphas.
    alphas: Any
    alphas_opt_state: Any
    # Alpha before the first epoch and after each epoch, (epochs + 1, 14, types) per
    # cell.
    history: Any
    # (epochs,) in %, NaN for epochs to come, -inf for epochs without validation.
    valid_top1: jax.Array
    guard: Guard | None = None

    @property
    def variables(self) -> dict:
        """The variables to evaluate the supernet with."""
        return {
            "params": self.params,
            "batch_stats": self.batch_stats,
            "alphas": self.alphas,
        }

    @property
    def top1(self) -> jax.Array:
        """The accuracies by which epochs are compared."""
        return self.valid_top1


# The uses of keys. Keys of images are folded with the number of the epoch
# (`data.pipeline`), which is never as large as these numbers.
PARAMETERS, ALPHAS, STEPS, DROPPED, CANDIDATES, REDRAWN = range(2**30, 2**30 + 6)


def run_key(seed: Any, use: int) -> jax.Array:
    """The key of a run for one of the uses above, the same on every backend.

    seed: a number or a uint32 array.

    Raises `UserError` for a seed of another type, such as a key.
    """
    _check_seed(seed)
    key = jax.random.key(jnp.asarray(seed, jnp.uint32), impl="threefry2x32")
    return jax.random.fold_in(key, use)


def _check_seed(seed: Any) -> None:
    # Only the type and the shape of a traced seed are known.
    if isinstance(seed, int):
        fits = 0 <= seed < 2**32
    else:
        dtype = getattr(seed, "dtype", None)
        whole = dtype is not None and jnp.issubdtype(dtype, jnp.integer)
        fits = whole and jnp.shape(seed) == ()
    if not fits:
        raise UserError(
            f"seed must be a whole number from 0 to 2**32 - 1, got {shown(seed)}; "
            "jax.vmap takes several"
        )


def initial_variables(
    model: nn.Module,
    image_shape: tuple[int, ...],
    seed: int,
    *,
    first_weights: str = PYTORCH,
) -> dict:
    """{"params", "batch_stats"} of a new network or supernet, drawn from a seed.

    Latent weights are projected as the scheme says.

    image_shape: (H, W, C).
    first_weights: a key of `FIRST_WEIGHTS`.

    Raises `UserError` for a key that is not in `FIRST_WEIGHTS`, and for a shape or a
    seed that is none.
    """
    choice("first_weights", first_weights, choices=FIRST_WEIGHTS)
    check_image_shape(image_shape)
    key = run_key(seed, PARAMETERS)
    drawing = run_key(seed, REDRAWN)
    # Inside another traced program, the compiler options of that program apply.
    options = None
    if not isinstance(key, jax.core.Tracer):
        options = once_options()
    # Under jit, XLA removes the forward pass, because its result is not used.
    initialise = jax.jit(
        _initialise, static_argnums=(0, 1, 2), compiler_options=options
    )
    return initialise(model, tuple(image_shape), first_weights, key, drawing)


def _initialise(
    model: nn.Module,
    image_shape: tuple[int, ...],
    first_weights: str,
    key: jax.Array,
    drawing: jax.Array,
) -> dict:
    """`initial_variables`, given the keys for the modules and for `first_weights`."""
    # The plain arithmetic is traced faster, and the parameters are the same.
    model = plain_form(model)

    # A forward pass on one image makes the parameters.
    images = jnp.zeros((1, *image_shape), model.arithmetic.dtype)  # (1, H, W, C)
    if isinstance(model, Supernet):
        # The method `mixture` calls every layer type, so that all of them get
        # parameters.
        variables = model.init(
            key, model.even_mixture(), images, train=False, method="mixture"
        )
    else:
        variables = model.init(key, images, train=False)

    # Apply the rule `first_weights`, and project the latent weights before the first
    # forward pass, as the released code does.
    params = redrawn(variables["params"], FIRST_WEIGHTS[first_weights], drawing)
    return {
        "params": project_params(params, model.scheme.latents),
        "batch_stats": variables.get("batch_stats", {}),
    }


def train_state_of(
    variables: Mapping,
    optimizer: optax.GradientTransformation,
    num_epochs: int,
    *,
    seed: Any = 0,
    dtype=jnp.float32,
) -> TrainState:
    """The state of a new training.

    variables: the initial {"params", "batch_stats"}.
    dtype: the type of the state's sums.
    """
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        seed=jnp.asarray(seed, jnp.uint32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init(variables["params"]),
        sums=Sums.zeros(dtype),
        test_top1=jnp.full((num_epochs,), jnp.nan, dtype=jnp.float32),
        guard=Guard.create(variables["params"]),
    )


def search_state_of(
    variables: Mapping,
    alphas: Mapping,
    optimizer: optax.GradientTransformation,
    alphas_optimizer: optax.GradientTransformation,
    num_epochs: int,
    *,
    seed: Any = 0,
    dtype=jnp.float32,
) -> SearchState:
    """The state of a new search.

    variables: the initial {"params", "batch_stats"}.
    alphas: the initial alpha.
    dtype: the type of the state's sums.
    """

    # Row 0 of the history is alpha before the first epoch.
    def history(alpha):
        rows = jnp.zeros((num_epochs + 1, *alpha.shape), alpha.dtype)
        return rows.at[0].set(alpha)

    return SearchState(
        step=jnp.zeros((), jnp.int32),
        seed=jnp.asarray(seed, jnp.uint32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init(variables["params"]),
        sums=Sums.zeros(dtype),
        alphas=alphas,
        alphas_opt_state=alphas_optimizer.init(alphas),
        history=jax.tree.map(history, alphas),
        valid_top1=jnp.full((num_epochs,), jnp.nan, dtype=jnp.float32),
        guard=Guard.create(variables["params"]),
    )
