"""The step of training: a frozen dataclass, called as `step(state, batch)` under `jit`.

It is written for one device and that device's part of the batch. `axis` names the
mapped axis of several devices, over which it averages.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

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
    noted,
    of_images,
)


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """One step of the final network: `step(state, batch) -> state`.

    A batch is {"image": NHWC, "label": (N,)}. It may have "targets", too: probabilities
    (N, classes), such as a teacher's. The loss is then (1 - soft_share) times that with
    the labels, plus soft_share * temperature^2 times the
    cross-entropy with the targets. The latter divides the logits by the temperature
    (arXiv 1503.02531, section 2).

    optimizer: it projects latent weights where the scheme does, see
        `optimizers.for_latents`.
    loss: the loss with the labels, see `losses.LOSSES`.
    label_smoothing: is handed on to it, see `losses.cross_entropy`.
    soft_share, temperature: of the loss with targets, above.
    drop_path: the rate in epoch e, counted from 0, is drop_path * e / num_epochs.
    auxiliary_weight: factor of the loss at an auxiliary classifier, where the network
        has one (DARTS).
    num_epochs, steps_per_epoch: of the training.
    microbatches: equal parts of the batch that go through the network one after the
        other; their gradients are averaged.
    axis: the mapped axis of several devices, of `jax.vmap` or of `jax.shard_map` with
        `check_vma=False`; None on one device.

    Raises `UserError` for an optimizer that treats latent weights otherwise than the
    network's scheme does: `latent_sgd(0.1)`, which follows `Xnor`, for a network of
    `BiReal`, and for a network without the fields `scheme` and `arithmetic`. The call
    raises it for a batch of other shapes or types than above, and for images that the
    state's parameters do not fit.

    >>> genotype = bnas.load_genotype("latest_cell")
    >>> network = bnas.Network(genotype, num_cells=5, channels=8, num_classes=10)
    >>> step = bnas.TrainStep(network, bnas.latent_sgd(0.1))
    >>> initial = jax.eval_shape(lambda: step.init(image_shape=(8, 8, 1)))
    >>> initial.params["classifier"]["kernel"].shape
    (128, 10)
    """

    network: nn.Module
    optimizer: optax.GradientTransformation
    loss: Loss = cross_entropy
    label_smoothing: float = 0.0
    soft_share: float = 1.0
    temperature: float = 1.0
    drop_path: float = 0.0
    auxiliary_weight: float = 0.4
    num_epochs: int = 1
    steps_per_epoch: int = 1
    microbatches: int = 1
    axis: str | None = None

    def __post_init__(self):
        for name, kind in (("scheme", "Scheme"), ("arithmetic", "Arithmetic")):
            if not hasattr(self.network, name):
                raise UserError(
                    f"a network to train has a field {name}: bnas_jax.{kind}, which "
                    f"{type(self.network).__name__} lacks; docs/extending.md has an "
                    "example"
                )
        check_optimizer("optimizer", self.optimizer)
        check_latents(self.optimizer, self.network.scheme)

    def init(
        self,
        *,
        seed: int = 0,
        image_shape: tuple[int, int, int],
        first_weights: str = PYTORCH,
    ) -> TrainState:
        """The state of a new training.

        seed: of everything that is drawn, in the steps too.
        image_shape: (H, W, C).
        first_weights: how weights are drawn, a key of `FIRST_WEIGHTS`.
        """
        variables = initial_variables(
            self.network, image_shape, seed=seed, first_weights=first_weights
        )
        dtype = self.network.arithmetic.dtype
        return train_state_of(
            variables, self.optimizer, self.num_epochs, seed=seed, dtype=dtype
        )

    def __call__(self, state: TrainState, batch: Batch) -> TrainState:
        check_batch(batch, parts=self.microbatches)

        # Forward and backward pass of each microbatch, then the mean over microbatches
        # and devices.
        gradient = lambda part, number: self._gradient(state, part, number)
        results = accumulate(gradient, batch, parts=self.microbatches)
        batch_stats, grads, loss, correct = average(results, self.axis)

        # The update. Latent weights are projected by the last link of the optimizer's
        # chain.
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

        number: of the microbatch in the batch, from 0.
        """
        options = self._random_options(state, number)
        labels = batch["label"]  # (N,)

        def loss_of(params):
            # The forward pass, in which batch norm takes the statistics of the batch.
            variables = {"params": params, "batch_stats": state.batch_stats}
            mutable = ["batch_stats", "auxiliary"]
            images = batch["image"]  # [N, H, W, C]
            with of_images(images):
                logits, new = self.network.apply(  # [N, classes]
                    variables, images, train=True, mutable=mutable, **options
                )
            loss = jnp.mean(self._losses(logits, batch))

            # An auxiliary classifier sows its logits in the collection "auxiliary".
            # Most networks have none.
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
        hard = self.loss(logits, batch["label"], self.label_smoothing)
        if "targets" not in batch:
            return hard
        targets = batch["targets"]  # [N, classes]
        if targets.shape != logits.shape:
            raise UserError(
                f'batch["targets"] has {targets.shape[-1]} classes, the network '
                f"{logits.shape[-1]}"
            )

        # Distillation. The square makes up for the gradients of the soft loss, which
        # shrink as 1 / temperature^2 (arXiv 1503.02531, section 2).
        soft = soft_cross_entropy(logits / self.temperature, targets)
        hard_weight = 1 - self.soft_share
        soft_weight = self.soft_share * self.temperature**2
        return hard_weight * hard + soft_weight * soft

    def _random_options(self, state: TrainState, number) -> dict:
        """The keys of dropout and drop-path, and the rate of drop-path.

        The rate grows linearly with the epoch, from 0, as in DARTS's code.
        """
        # Each step has its own key. Where there are several microbatches, each of them
        # has one.
        key = jax.random.fold_in(run_key(state.seed, STEPS), state.step)
        if self.microbatches > 1:
            key = jax.random.fold_in(key, number)
        if self.drop_path == 0:
            return {"rngs": {"dropout": key}}

        # The rate is constant within an epoch. Steps beyond the training's end keep its
        # last rate.
        epoch = (state.step // self.steps_per_epoch).astype(jnp.float32)
        rate = self.drop_path * epoch / self.num_epochs
        rate = jnp.minimum(rate, self.drop_path)
        return {"drop_path_rate": rate, "rngs": {"drop_path": key, "dropout": key}}
