"""`TrainStep`: a step of training, called as `step(state, batch)` under `jax.jit`.

It is written for one device and its shard of the batch. `axis` names the mapped axis of
several devices, over which gradients are averaged.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from bnas_jax.core.checks import rates, require, shares
from bnas_jax.core.errors import UserError
from bnas_jax.core.first_weights import PYTORCH
from bnas_jax.core.losses import Loss, cross_entropy, hits, soft_cross_entropy
from bnas_jax.training.collectives import average
from bnas_jax.training.optimizers import check_latents, check_optimizer
from bnas_jax.training.state import (
    STEPS,
    TrainState,
    initial_variables,
    run_key,
    train_state_of,
)
from bnas_jax.training.step_parts import (
    Batch,
    accumulate,
    check_batch,
    check_lengths,
    check_state,
    noted,
    of_images,
)


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """One step of training a network: `step(state, batch) -> state`.

    A batch is {"image": (N, H, W, C), "label": (N,)}, arrays of JAX or NumPy. Labels
    are from 0 to classes - 1; any other makes the loss NaN.

    A batch may also have "targets", probabilities (N, classes), such as a teacher's.
    The loss is then (1 - soft_share) times the loss with the labels, plus soft_share *
    temperature^2 times the cross-entropy of logits / temperature with the targets
    (arXiv 1503.02531, section 2).

    optimizer: an optimizer for the network's scheme, see `optimizers.for_latents`.
    loss: the loss with the labels, such as those of `losses.LOSSES`.
    label_smoothing: an argument of the loss, see `losses.cross_entropy`.
    soft_share, temperature: see the loss with targets above.
    drop_path: the drop-path probability in epoch e, counted from 0, is
        drop_path * e / num_epochs.
    auxiliary_weight: the factor of the auxiliary classifier's loss, if the network has
        one (DARTS).
    num_epochs, steps_per_epoch: the lengths of the training and of an epoch, for
        `drop_path`.
    microbatches: the number of equal parts of the batch, which go through the network
        one by one; their gradients are averaged.
    axis: the mapped axis of several devices, of `jax.vmap` or of `jax.shard_map` with
        `check_vma=False`; None on one device.

    Raises `UserError` for an optimizer that does not follow the network's scheme (such
    as `latent_sgd(0.1)`, which follows `Xnor`, for a network of `BiReal`), for a
    network without the fields `scheme` and `arithmetic`, and for a number out of its
    range. The call raises it for a batch of other shapes or types, for images that the
    state's parameters do not fit, and for a loss of another shape than (N,).

    >>> genotype = bnas.load_genotype("latest_cell")
    >>> network = bnas.Network(genotype, num_cells=5, channels=8, num_classes=10)
    >>> step = bnas.TrainStep(network, bnas.latent_sgd(0.1))
    >>> initial = jax.eval_shape(lambda: step.init(image_shape=(8, 8, 1)))
    >>> initial.params["classifier"]["kernel"].shape
    (128, 10)
    """

    network: nn.Module
    optimizer: optax.GradientTransformation
    label_smoothing: float = 0.0
    soft_share: float = 1.0
    temperature: float = 1.0
    drop_path: float = 0.0
    auxiliary_weight: float = 0.4
    num_epochs: int = 1
    steps_per_epoch: int = 1
    microbatches: int = 1
    axis: str | None = None
    # Last, so that arguments by position keep their places.
    loss: Loss = cross_entropy

    def __post_init__(self):
        for name, kind in (("scheme", "Scheme"), ("arithmetic", "Arithmetic")):
            if not hasattr(self.network, name):
                raise UserError(
                    f"a network to train has a field {name}: bnas_jax.{kind}, which "
                    f"{type(self.network).__name__} lacks; docs/extending.md has an "
                    "example"
                )
        if not callable(self.loss):
            raise UserError(
                "loss must be a function (logits, labels, smoothing), such as those of "
                f"bnas_jax.core.losses.LOSSES, got {self.loss!r}"
            )
        check_lengths(self)
        self._check_numbers()
        check_optimizer("optimizer", self.optimizer)
        check_latents(self.optimizer, self.network.scheme)

    def _check_numbers(self) -> None:
        """Raises `UserError` for a number out of its range."""

        # The value of a traced number, for instance under `jax.vmap`, is not known.
        def known(*names):
            traced = lambda name: isinstance(getattr(self, name), jax.core.Tracer)
            return [name for name in names if not traced(name)]

        shares("TrainStep", self, *known("label_smoothing", "drop_path"))
        rates("TrainStep", self, *known("temperature"))
        rates("TrainStep", self, *known("auxiliary_weight"), least=0)
        if known("soft_share"):
            message = f"TrainStep.soft_share must be from 0 to 1, got {self.soft_share}"
            require(0 <= self.soft_share <= 1, message)

    def init(
        self,
        *,
        seed: int = 0,
        image_shape: tuple[int, int, int],
        first_weights: str = PYTORCH,
    ) -> TrainState:
        """The state of a new training.

        seed: the seed of all random numbers, those in the steps included.
        image_shape: (H, W, C).
        first_weights: how weights are initialised, a key of `FIRST_WEIGHTS`.
        """
        variables = initial_variables(
            self.network, image_shape, seed=seed, first_weights=first_weights
        )
        dtype = self.network.arithmetic.dtype
        return train_state_of(
            variables, self.optimizer, self.num_epochs, seed=seed, dtype=dtype
        )

    def __call__(self, state: TrainState, batch: Batch) -> TrainState:
        check_state(state, TrainState)
        check_batch(batch, parts=self.microbatches)

        # Forward and backward pass of each microbatch, then the mean over microbatches
        # and devices.
        gradient = lambda part, number: self._gradient(state, part, number)
        results = accumulate(gradient, batch, parts=self.microbatches)
        batch_stats, grads, loss, correct = average(results, self.axis)

        # The update. The last transformation of the optimizer projects the latent
        # weights.
        optimizer = optax.with_extra_args_support(self.optimizer)
        updates, opt_state = optimizer.update(
            grads, state.opt_state, params=state.params, value=loss
        )
        step = state.step + 1
        params = optax.apply_updates(state.params, updates)

        # For the epoch's record, and to find where a divergence began.
        notes = noted(self, state, grads=grads, loss=loss, correct=correct, batch=batch)
        return state.replace(
            step=step,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            **notes,
        )

    def _gradient(self, state: TrainState, batch: Batch, number) -> tuple:
        """(batch statistics, gradients, loss, hits) of a microbatch.

        number: the number of the microbatch, from 0.
        """
        options = self._random_options(state, number)
        labels = batch["label"]  # (N,)

        def loss_of(params):
            # The forward pass, in which batch norm takes the statistics of the batch.
            variables = {"params": params, "batch_stats": state.batch_stats}
            mutable = ["batch_stats", "auxiliary"]
            images = batch["image"]  # (N, H, W, C)
            with of_images(images):
                logits, new = self.network.apply(  # (N, classes)
                    variables, images, train=True, mutable=mutable, **options
                )
            loss = jnp.mean(self._losses(logits, batch))

            # The logits of an auxiliary classifier, if there is one, are sown into the
            # collection "auxiliary".
            for auxiliary in jax.tree.leaves(new.get("auxiliary", {})):  # (N, classes)
                extra = self.loss(auxiliary, labels, self.label_smoothing)
                loss += self.auxiliary_weight * jnp.mean(extra)

            correct = jnp.sum(hits(logits, labels))
            return loss, (new.get("batch_stats", {}), correct)

        value_and_grad = jax.value_and_grad(loss_of, has_aux=True)
        (loss, (batch_stats, correct)), grads = value_and_grad(state.params)
        return batch_stats, grads, loss, correct

    def _losses(self, logits: jax.Array, batch: Batch) -> jax.Array:
        """The loss of each example, (N,)."""
        labels = batch["label"]  # (N,)
        hard = self.loss(logits, labels, self.label_smoothing)
        # The mean of other shapes would be another loss; that of a scalar is the same.
        if jnp.shape(hard) not in (labels.shape, ()):
            raise UserError(
                f"loss must return the loss of each example, {labels.shape}, got "
                f"{jnp.shape(hard)}"
            )
        if "targets" not in batch:
            return hard
        targets = batch["targets"]  # (N, classes)
        if targets.shape != logits.shape:
            raise UserError(
                f'batch["targets"] has {targets.shape[-1]} classes, the network '
                f"{logits.shape[-1]}"
            )

        # Distillation. The gradients of the soft loss scale with 1 / temperature^2,
        # which the square compensates (arXiv 1503.02531, section 2).
        soft = soft_cross_entropy(logits / self.temperature, targets)
        hard_weight = 1 - self.soft_share
        soft_weight = self.soft_share * self.temperature**2
        return hard_weight * hard + soft_weight * soft

    def _random_options(self, state: TrainState, number) -> dict:
        """The keys of dropout and drop-path, and the rate of drop-path.

        The rate grows linearly with the epoch, from 0, as in DARTS's code.
        """
        # Each step has a key of its own, and so has each of several microbatches.
        key = jax.random.fold_in(run_key(state.seed, STEPS), state.step)
        if self.microbatches > 1:
            key = jax.random.fold_in(key, number)
        if self.drop_path == 0:
            return {"rngs": {"dropout": key}}

        # The rate is constant within an epoch. It never exceeds `drop_path`, not even
        # in steps beyond the last epoch.
        epoch = (state.step // self.steps_per_epoch).astype(jnp.float32)
        rate = self.drop_path * epoch / self.num_epochs
        rate = jnp.minimum(rate, self.drop_path)
        return {"drop_path_rate": rate, "rngs": {"drop_path": key, "dropout": key}}
