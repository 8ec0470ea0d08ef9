"""The steps of training and search: frozen dataclasses, called as `step(state, batches)` under `jax.jit`.

A step is written for one device and its part of the batch, with the name of a mapped axis to average over.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from bnas_jax.core.supernet import Supernet
from bnas_jax.search.searcher import ALPHAS, WEIGHTS, Progress, Searcher
from bnas_jax.training import state as state_lib
from bnas_jax.training.collectives import average
from bnas_jax.training.divergence import watch
from bnas_jax.training.losses import cross_entropy, hits
from bnas_jax.training.optimizers import check_latents
from bnas_jax.training.state import (
    STEPS,
    SearchState,
    TrainState,
    initial_variables,
    run_key,
    search_state_of,
    train_state_of,
)

Batch = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """One step of the final network: `step(state, batch) -> state`, batch {"image": NHWC, "label": (N,)}.

    optimizer: one that projects latent weights where the scheme does, see `optimizers.for_latents`.
    label_smoothing: see `losses.cross_entropy`. drop_path: the rate of the last epoch, to which it grows linearly.
    auxiliary_weight: of the loss at an auxiliary classifier, where the network has one (DARTS).
    num_epochs, steps_per_epoch: of the training.
    microbatches: equal parts of the batch that go through the network one after the other; their gradients are averaged.
    axis: the mapped axis of several devices, to average over.

    Raises `UserError` for an optimizer that would leave latent weights unprojected.

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
    drop_path: float = 0.0
    auxiliary_weight: float = 0.4
    num_epochs: int = 1
    steps_per_epoch: int = 1
    microbatches: int = 1
    axis: str | None = None

    def __post_init__(self):
        check_latents(self.optimizer, self.network.scheme)

    def init(self, *, seed: int = 0, image_shape: tuple[int, int, int]) -> TrainState:
        """The state of a new training. seed: of all that is drawn, in its steps too. image_shape: (H, W, C)."""
        variables = initial_variables(self.network, image_shape, seed=seed)
        dtype = self.network.arithmetic.dtype
        return train_state_of(variables, self.optimizer, self.num_epochs, seed=seed, dtype=dtype)

    def __call__(self, state: TrainState, batch: Batch) -> TrainState:
        # Forward and backward, microbatch by microbatch, and the mean over the devices.
        gradient = lambda part, number: self._gradient(state, part, number)
        results = accumulate(gradient, batch, parts=self.microbatches)
        batch_stats, grads, loss, correct = average(results, self.axis)

        # The update; latent weights are projected by the last link of the optimizer's chain.
        updates, opt_state = self.optimizer.update(grads, state.opt_state, params=state.params)
        step = state.step + 1
        params = optax.apply_updates(state.params, updates)

        noted = _noted(self, state, grads=grads, loss=loss, correct=correct, batch=batch)
        return state.replace(
            step=step,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            **noted,
        )

    def _gradient(self, state: TrainState, batch: Batch, number) -> tuple:
        """(batch statistics, gradients, loss, hits) of a microbatch. number: of the microbatch in the batch."""
        options = self._random_options(state, number)
        labels = batch["label"]  # [N]

        def loss_of(params):
            variables = {"params": params, "batch_stats": state.batch_stats}
            mutable = ["batch_stats", "auxiliary"]
            logits, new = self.network.apply(  # [N, classes]
                variables, batch["image"], train=True, mutable=mutable, **options
            )
            loss = jnp.mean(cross_entropy(logits, labels, smoothing=self.label_smoothing))

            # What an auxiliary classifier has sown: ("auxiliary", "logits"). Most networks have none.
            for auxiliary in jax.tree.leaves(new.get("auxiliary", {})):
                extra = cross_entropy(auxiliary, labels, smoothing=self.label_smoothing)
                loss += self.auxiliary_weight * jnp.mean(extra)

            correct = jnp.sum(hits(logits, labels))
            return loss, (new.get("batch_stats", {}), correct)

        value_and_grad = jax.value_and_grad(loss_of, has_aux=True)
        (loss, (batch_stats, correct)), grads = value_and_grad(state.params)
        return batch_stats, grads, loss, correct

    def _random_options(self, state: TrainState, number) -> dict:
        """What a network's random numbers come from, and the rate of drop-path, where there is any.

        That grows linearly with the epoch, from 0 (docs/conventions.md).
        """
        # A key for each step and, where there are several, each microbatch.
        key = jax.random.fold_in(run_key(state.seed, STEPS), state.step)
        if self.microbatches > 1:
            key = jax.random.fold_in(key, number)
        if self.drop_path == 0:
            return {"rngs": {"dropout": key}}
        # The rate is constant within an epoch.
        epoch = (state.step // self.steps_per_epoch).astype(jnp.float32)
        # Whoever makes more steps than the training has keeps its last rate.
        rate = self.drop_path * epoch / self.num_epochs
        rate = jnp.minimum(rate, self.drop_path)
        return {"drop_path_rate": rate, "rngs": {"drop_path": key, "dropout": key}}


@dataclasses.dataclass(frozen=True)
class SearchStep:
    """One step of the search: `step(state, batches) -> state`, batches {"train": batch, "valid": batch}.

    The searcher says which stages it has; `stage(index)` gives them one by one. weights, alphas: the optimizers of the
    supernet's weights and of alpha. num_epochs, steps_per_epoch: of the search, for what is annealed. The rest as `TrainStep`.

    >>> supernet = bnas.Supernet(num_cells=5, channels=4, num_classes=10)
    >>> optimizers = {"weights": bnas.latent_sgd(0.025), "alphas": optax.adam(3e-4)}
    >>> step = bnas.SearchStep(supernet, bnas.Bnas(), **optimizers)
    >>> [sorted(stage.moves) for stage in step.searcher.stages]
    [['alphas'], ['weights']]
    """

    supernet: Supernet
    searcher: Searcher
    weights: optax.GradientTransformation
    alphas: optax.GradientTransformation
    num_epochs: int = 1
    steps_per_epoch: int = 1
    microbatches: int = 1
    axis: str | None = None

    def __post_init__(self):
        check_latents(self.weights, self.supernet.scheme)
        object.__setattr__(self, "searcher", self.searcher.of(self.supernet))

    def init(self, *, seed: int = 0, image_shape: tuple[int, int, int]) -> SearchState:
        """The state of a new search. seed: of all that is drawn, in its steps too. image_shape: (H, W, C)."""
        dtype = self.supernet.arithmetic.dtype
        # Alpha and the weights are drawn by different keys.
        alphas = self.searcher.init(run_key(seed, state_lib.ALPHAS), dtype)
        variables = initial_variables(self.supernet, image_shape, seed=seed)
        return search_state_of(
            variables,
            alphas,
            self.weights,
            self.alphas,
            self.num_epochs,
            seed=seed,
            dtype=dtype,
        )

    def __call__(self, state: SearchState, batches: Mapping[str, Batch]) -> SearchState:
        for index in range(len(self.searcher.stages)):
            state = self.stage(index, state, batches)
        return state

    def stage(self, index: int, state: SearchState, batches: Mapping[str, Batch]) -> SearchState:
        """The state after the stage of that number. batches: at least those that the stage takes."""
        stage = self.searcher.stages[index]
        batch = batches[stage.batches[0]]

        # A searcher may have another gradient at alpha than that of the loss, such as the second order of DARTS.
        gradients: dict[str, Any] = {}
        if ALPHAS in stage.moves:
            stage_batches = {name: batches[name] for name in stage.batches}
            gradients = self._searcher_gradient(index, state, batches=stage_batches)

        # The gradients of the loss at the rest of what the stage moves, all by one backward pass.
        ordinary = (stage.moves | stage.beside) - set(gradients)
        if ordinary:
            gradient = lambda part, number: self._gradient(
                index, state, batch=part, number=number, names=ordinary
            )
            batch_stats, found, loss, correct = self._mean(gradient, batch)
            state = state.replace(batch_stats=batch_stats)
            gradients = gradients | found
        gradients = self.searcher.clip(gradients)

        if ALPHAS in stage.moves:
            updates, opt_state = self.alphas.update(
                gradients[ALPHAS], state.alphas_opt_state, params=state.alphas
            )
            alphas = optax.apply_updates(state.alphas, updates)
            state = state.replace(alphas=alphas, alphas_opt_state=opt_state)

        if WEIGHTS in stage.moves:
            updates, opt_state = self.weights.update(
                gradients[WEIGHTS], state.opt_state, params=state.params
            )
            params = optax.apply_updates(state.params, updates)

            noted = _noted(
                self, state, grads=gradients[WEIGHTS], loss=loss, correct=correct, batch=batch
            )
            state = state.replace(params=params, opt_state=opt_state, **noted)

        # A step ends with its last stage.
        if index == len(self.searcher.stages) - 1:
            state = state.replace(step=state.step + 1)
        return state

    def _mean(self, function: Callable, batch: Batch) -> Any:
        """The mean of `function(part, number)` over the microbatches of all devices."""
        return average(accumulate(function, batch, parts=self.microbatches), self.axis)

    def _gradient(
        self, index: int, state: SearchState, batch: Batch, number, names: frozenset[str]
    ) -> tuple:
        """(batch statistics, gradients at `names`, of `WEIGHTS` and `ALPHAS`, loss, hits) of a microbatch."""
        position = {WEIGHTS: state.params, ALPHAS: state.alphas}
        moves_alphas = ALPHAS in self.searcher.stages[index].moves

        def objective(at):
            # What is not in `names` enters as a constant.
            params = at.get(WEIGHTS, state.params)
            alphas = at.get(ALPHAS, state.alphas)
            forward = self._forward(index, state, batch, number, supernet=self.supernet)
            loss, aside = forward(params, alphas)
            # The record's loss is the cross-entropy alone.
            total = loss
            if moves_alphas:
                total = loss + self._added(index, state, alphas)
            return total, (loss, *aside)

        # In the order of their names, which a set does not keep: the compiled program must not depend on it.
        at = {name: position[name] for name in sorted(names)}
        gradients, (loss, batch_stats, correct) = jax.grad(objective, has_aux=True)(at)
        return batch_stats, gradients, loss, correct

    def _searcher_gradient(
        self, index: int, state: SearchState, batches: Mapping[str, Batch]
    ) -> dict[str, Any]:
        """{"alphas": the gradient that the searcher itself defines at alpha}, {} where it defines none."""
        supernet = self.supernet
        if self.searcher.second_order:
            # The sums of signs are integers elsewhere, which carry no derivative.
            plain = dataclasses.replace(supernet.arithmetic, plain=True)
            supernet = supernet.clone(arithmetic=plain)

        # The mean over a batch's microbatches of `function`, which is given the loss as a function of (weights, alphas).
        def mean(function, name):
            def of_part(part, number):
                forward = self._forward(index, state, part, number, supernet=supernet)
                return function(lambda params, alphas: forward(params, alphas)[0])

            return self._mean(of_part, batches[name])

        # Where the next step would bring the weights: second-order DARTS differentiates there.
        def virtual(params, gradients):
            optimizer = getattr(self.weights, "unclipped", self.weights)
            updates, _ = optimizer.update(gradients, state.opt_state, params)
            return optax.apply_updates(params, updates)

        gradient = self.searcher.gradient(mean, virtual, state.params, state.alphas)
        if gradient is None:
            return {}
        # And what the objective adds to the loss, as for any gradient at alpha.
        addition = lambda alphas: self._added(index, state, alphas)
        added = jax.grad(addition)(state.alphas)
        return {ALPHAS: jax.tree.map(jnp.add, gradient, added)}

    def _forward(
        self, index: int, state: SearchState, batch: Batch, number, *, supernet: Supernet
    ) -> Callable:
        """(params, alphas) -> (mean cross-entropy, (batch statistics, hits)) of a microbatch."""
        options = self._drop_path_options(index, state, number)
        labels = batch["label"]  # [N]

        def forward(params, alphas):
            variables = {"params": params, "batch_stats": state.batch_stats}
            mixture = self._mixture(index, state, alphas)

            # What some searchers add to all outputs of an edge.
            key = self._key(STEPS, state, index)
            scalars = self.searcher.scalars(alphas, key, self._progress(state))
            if scalars is not None:
                options["scalars"] = scalars

            logits, new = supernet.apply(  # [N, classes]
                variables,
                mixture,
                batch["image"],
                train=True,
                mutable=["batch_stats"],
                method="mixture",
                **options,
            )
            loss = jnp.mean(cross_entropy(logits, labels))
            correct = jnp.sum(hits(logits, labels))
            return loss, (new.get("batch_stats", {}), correct)

        return forward

    def _mixture(self, index: int, state: SearchState, alphas) -> dict[str, jax.Array]:
        """The weights of the layer types: what is drawn is the same on all devices and for all microbatches."""
        key = self._key(STEPS, state, index)
        progress = self._progress(state)
        return self.searcher.weights(alphas, key, progress)

    def _added(self, index: int, state: SearchState, alphas) -> jax.Array:
        """What the searcher's objective adds to the cross-entropy."""
        progress = self._progress(state)
        regularizer = self.searcher.regularizer(alphas, progress)
        mixture = self._mixture(index, state, alphas)
        return regularizer + self.searcher.resources(mixture)

    def _progress(self, state: SearchState) -> Progress:
        epoch = state.step // self.steps_per_epoch
        return Progress(epoch=epoch, num_epochs=self.num_epochs)

    def _key(self, use: int, state: SearchState, index: int) -> jax.Array:
        """The key of a stage of a step, so that a resumed run draws what an uninterrupted one draws."""
        of_step = jax.random.fold_in(run_key(state.seed, use), state.step)
        return jax.random.fold_in(of_step, index)

    def _drop_path_options(self, index: int, state: SearchState, number) -> dict:
        """The supernet's options to drop edges at random; {} where the searcher drops none."""
        rate = self.searcher.drop_path_rate
        if rate == 0:
            return {}
        key = self._key(state_lib.DROPPED, state, index)
        # Each microbatch drops other edges; a batch in one piece is drawn for by the key of the step.
        if self.microbatches > 1:
            key = jax.random.fold_in(key, number)
        return {"drop_path_rate": rate, "rngs": {"drop_path": key}}


def accumulate(function: Callable, batch: Any, parts: int) -> Any:
    """The mean of the results of `function(part, number)`, called for each of `parts` equal parts of a batch in turn.

    batch: a tree of arrays (N, ...), N divisible by `parts`. Every part starts from the same running statistics, so that the
    mean of the statistics among the results is one update of them.
    """
    if parts == 1:
        return function(batch, 0)
    in_parts = lambda x: x.reshape(parts, -1, *x.shape[1:])
    divided = jax.tree.map(in_parts, batch)  # [parts, N / parts, ...]
    numbers = jnp.arange(parts)

    # Zeros of the result's shapes, which are found without computing anything.
    first = jax.tree.map(lambda x: x[0], (divided, numbers))
    shapes = jax.eval_shape(function, *first)
    zero = lambda s: jnp.zeros(s.shape, s.dtype)
    zeros = jax.tree.map(zero, shapes)

    # A scan holds the activations of one part at a time, which is what microbatches are for.
    def add(sums, numbered):
        return jax.tree.map(jnp.add, sums, function(*numbered)), None

    sums, _ = jax.lax.scan(add, init=zeros, xs=(divided, numbers))
    return jax.tree.map(lambda s: s / parts, sums)


def _noted(
    step: TrainStep | SearchStep,
    state: TrainState | SearchState,
    *,
    grads: Any,
    loss: jax.Array,
    correct: jax.Array,
    batch: Batch,
) -> dict[str, Any]:
    """What a state notes of a step of the weights: sums for the epoch's record, and the sizes of the gradients.

    loss, correct: means over microbatches and devices.
    """
    devices = 1
    if step.axis is not None:
        devices = jax.lax.axis_size(step.axis)
    examples = batch["label"].shape[0] * devices
    # A mean of counts, back to the count, which is whole.
    correct = jnp.round(correct * step.microbatches * devices)
    sums = state.sums.add(loss=loss, correct=correct, examples=examples)
    guard = state.guard
    if guard is not None:
        guard = watch(guard, grads=grads, step=state.step)
    return {"sums": sums, "guard": guard}
