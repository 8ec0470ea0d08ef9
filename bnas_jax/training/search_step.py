"""`SearchStep`: a step of the search, called as `step(state, batches)` under `jax.jit`.

It is written for one device and its shard of the batches. `axis` names the mapped axis
of several devices, over which gradients are averaged.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bnas_jax.core.arithmetic import plain_form
from bnas_jax.core.errors import UserError, shown
from bnas_jax.core.losses import cross_entropy, hits
from bnas_jax.core.supernet import Supernet
from bnas_jax.search.searcher import ALPHAS, WEIGHTS, Progress, Searcher
from bnas_jax.training import state as state_lib
from bnas_jax.training.collectives import average
from bnas_jax.training.optimizers import check_latents, check_optimizer
from bnas_jax.training.state import (
    STEPS,
    SearchState,
    initial_variables,
    run_key,
    search_state_of,
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
class SearchStep:
    """One step of the search: `step(state, batches) -> state`.

    batches are {"train": batch, "valid": batch}, each in the form for `TrainStep`,
    without targets. The searcher defines the stages of a step, for instance an alpha
    step and a weight step. `stage(index, ...)` runs one of them.

    weights, alphas: the optimizers of the supernet's weights and of alpha.
    num_epochs, steps_per_epoch: the lengths of the search and of an epoch, for the
        terms that are annealed.
    microbatches, axis: see `TrainStep`.

    Raises `UserError` for a supernet or a searcher of another type, and for an
    optimizer of the weights that does not follow the supernet's scheme. The call raises
    it for batches that `TrainStep` would refuse, and for a missing batch.

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
        if not hasattr(self.supernet, "layer_types"):
            kind = type(self.supernet).__name__
            raise UserError(
                f"supernet must be a Supernet, got a {kind}, which TrainStep trains"
            )
        check_lengths(self)
        check_optimizer("weights", self.weights)
        check_optimizer("alphas", self.alphas)
        check_latents(self.weights, self.supernet.scheme)
        # A common mistake is a searcher's name, or its class without parentheses.
        if not isinstance(self.searcher, Searcher):
            raise UserError(
                f"searcher must be an object such as Bnas(), got {shown(self.searcher)}"
            )
        # A frozen dataclass refuses a plain assignment.
        object.__setattr__(self, "searcher", self.searcher.of(self.supernet))

    def init(self, *, seed: int = 0, image_shape: tuple[int, int, int]) -> SearchState:
        """The state of a new search.

        seed: the seed of all random numbers, those in the steps included.
        image_shape: (H, W, C).
        """
        dtype = self.supernet.arithmetic.dtype
        # Alpha and the weights are drawn with different keys.
        alphas = self.searcher.init(run_key(seed, state_lib.ALPHAS), dtype)
        variables = initial_variables(self.supernet, image_shape, seed=seed)
        return search_state_of(
            variables,
            alphas,
            optimizer=self.weights,
            alphas_optimizer=self.alphas,
            num_epochs=self.num_epochs,
            seed=seed,
            dtype=dtype,
        )

    def __call__(self, state: SearchState, batches: Mapping[str, Batch]) -> SearchState:
        for index in range(len(self.searcher.stages)):
            state = self.stage(index, state, batches)
        return state

    def stage(
        self, index: int, state: SearchState, batches: Mapping[str, Batch]
    ) -> SearchState:
        """The state after one stage of a step.

        index: the number of the stage, from 0.
        batches: at least the batches that the stage takes.
        """
        check_state(state, SearchState)
        stage = self.searcher.stages[index]
        self._check(batches, names=stage.batches)
        # The objective is the loss on the first of the stage's batches.
        batch = batches[stage.batches[0]]

        # The gradient of alpha, if the searcher defines it (second-order DARTS).
        gradients: dict[str, Any] = {}
        if ALPHAS in stage.moves:
            stage_batches = {name: batches[name] for name in stage.batches}
            gradients = self._searcher_gradient(index, state, batches=stage_batches)

        # All other gradients are those of the objective, by one backward pass.
        ordinary = (stage.moves | stage.beside) - set(gradients)
        if ordinary:
            gradient = lambda part, number: self._gradient(
                index, state, batch=part, number=number, names=ordinary
            )
            batch_stats, found, loss, correct = self._mean(gradient, batch)
            state = state.replace(batch_stats=batch_stats)
            gradients = gradients | found
        gradients = self.searcher.clip(gradients)

        # The update of alpha.
        if ALPHAS in stage.moves:
            state = self._move_alphas(state, gradients[ALPHAS])

        # The update of the weights, and the statistics of the epoch.
        if WEIGHTS in stage.moves:
            grads = gradients[WEIGHTS]
            state = self._move_weights(state, grads, loss=loss)
            notes = noted(
                self, state, grads=grads, loss=loss, correct=correct, batch=batch
            )
            state = state.replace(**notes)

        # The last stage ends the step.
        if index == len(self.searcher.stages) - 1:
            state = state.replace(step=state.step + 1)
        return state

    def _check(self, batches: Any, *, names: tuple[str, ...]) -> None:
        """Raises `UserError` unless there is a batch of each name."""
        for name in names:
            if not isinstance(batches, Mapping) or name not in batches:
                raise UserError(
                    'batches must be {"train": batch, "valid": batch}; there is no '
                    f'"{name}" among them'
                )
            check_batch(batches[name], parts=self.microbatches)
            if "targets" in batches[name]:
                raise UserError(
                    f'the batch "{name}" has "targets", which a search does not read; '
                    "leave them out"
                )

    def _move_alphas(self, state: SearchState, grads: Any) -> SearchState:
        """The state after an update of alpha by its optimizer."""
        updates, opt_state = self.alphas.update(
            grads, state.alphas_opt_state, params=state.alphas
        )
        alphas = optax.apply_updates(state.alphas, updates)
        return state.replace(alphas=alphas, alphas_opt_state=opt_state)

    def _move_weights(self, state: SearchState, grads: Any, *, loss) -> SearchState:
        """The state after an update of the weights by their optimizer."""
        # The last transformation of the optimizer projects the latent weights.
        optimizer = optax.with_extra_args_support(self.weights)
        updates, opt_state = optimizer.update(
            grads, state.opt_state, params=state.params, value=loss
        )
        params = optax.apply_updates(state.params, updates)
        return state.replace(params=params, opt_state=opt_state)

    def _mean(self, function: Callable, batch: Batch) -> Any:
        """The mean of `function(part, number)` over the microbatches of all devices."""
        of_device = accumulate(function, batch, parts=self.microbatches)
        return average(of_device, self.axis)

    def _gradient(
        self,
        index: int,
        state: SearchState,
        batch: Batch,
        number,
        names: frozenset[str],
    ) -> tuple:
        """(batch statistics, gradients, loss, hits) of a microbatch.

        gradients is {name: gradient}.

        number: the number of the microbatch, from 0.
        names: the gradients to compute, `WEIGHTS` or `ALPHAS` or both.
        """
        position = {WEIGHTS: state.params, ALPHAS: state.alphas}
        moves_alphas = ALPHAS in self.searcher.stages[index].moves

        def objective(at):
            # Parameters that are not in `names` are constants.
            params = at.get(WEIGHTS, state.params)
            alphas = at.get(ALPHAS, state.alphas)
            forward = self._forward(index, state, batch, number, supernet=self.supernet)
            loss, aside = forward(params, alphas)

            # The searcher's terms are differentiated, but the recorded loss is only the
            # cross-entropy.
            total = loss
            if moves_alphas:
                total = loss + self._added(index, state, alphas)
            return total, (loss, *aside)

        # Sorted, so that the compiled program does not depend on the order of a set.
        at = {name: position[name] for name in sorted(names)}
        gradients, (loss, batch_stats, correct) = jax.grad(objective, has_aux=True)(at)
        return batch_stats, gradients, loss, correct

    def _searcher_gradient(
        self, index: int, state: SearchState, batches: Mapping[str, Batch]
    ) -> dict[str, Any]:
        """{"alphas": the gradient that the searcher defines}, or {} if it defines none.

        It calls `Searcher.gradient`.
        """
        supernet = self.supernet
        if self.searcher.second_order:
            # Second derivatives need the plain arithmetic: otherwise, sums of signs are
            # integers, which have no derivative.
            supernet = plain_form(supernet)

        # The mean of `function(loss)` over the parts of a batch, where `loss` is the
        # loss on the part as a function of (weights, alpha).
        def mean(function, name):
            def of_part(part, number):
                forward = self._forward(index, state, part, number, supernet=supernet)
                loss = lambda params, alphas: forward(params, alphas)[0]
                return function(loss)

            return self._mean(of_part, batches[name])

        # The weights after a virtual update, where second-order DARTS differentiates.
        def virtual(params, gradients):
            optimizer = getattr(self.weights, "unclipped", self.weights)
            updates, _ = optimizer.update(gradients, state.opt_state, params)
            return optax.apply_updates(params, updates)

        gradient = self.searcher.gradient(mean, virtual, state.params, state.alphas)
        if gradient is None:
            return {}

        # Add the gradient of the searcher's terms, as in `_gradient`.
        addition = lambda alphas: self._added(index, state, alphas)
        added = jax.grad(addition)(state.alphas)
        return {ALPHAS: jax.tree.map(jnp.add, gradient, added)}

    def _forward(
        self,
        index: int,
        state: SearchState,
        batch: Batch,
        number,
        *,
        supernet: Supernet,
    ) -> Callable:
        """The function (params, alphas) -> (mean cross-entropy, (statistics, hits)).

        It is the forward pass of the supernet on a microbatch. statistics are the
        updated batch statistics; hits is the number of correct examples.
        """
        options = self._drop_path_options(index, state, number)
        labels = batch["label"]  # (N,)

        def forward(params, alphas):
            variables = {"params": params, "batch_stats": state.batch_stats}
            mixture = self._mixture(index, state, alphas)  # (14, types) of each cell

            # Numbers to add to the outputs of edges, drawn with the key of the mixture.
            key = self._key(STEPS, state, index)
            scalars = self.searcher.scalars(alphas, key, self._progress(state))
            if scalars is not None:
                options["scalars"] = scalars

            images = batch["image"]  # (N, H, W, C)
            with of_images(images):
                logits, new = supernet.apply(  # (N, classes)
                    variables,
                    mixture,
                    images,
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
        """The mixture weights, (14, types) for each cell.

        All devices and microbatches draw the same.
        """
        key = self._key(STEPS, state, index)
        progress = self._progress(state)
        return self.searcher.weights(alphas, key, progress)

    def _added(self, index: int, state: SearchState, alphas) -> jax.Array:
        """The terms that the searcher adds to the cross-entropy, a scalar."""
        progress = self._progress(state)
        # Such as the diversity of Eq. (5).
        regularizer = self.searcher.regularizer(alphas, progress)
        mixture = self._mixture(index, state, alphas)
        return regularizer + self.searcher.resources(mixture)

    def _progress(self, state: SearchState) -> Progress:
        epoch = state.step // self.steps_per_epoch
        return Progress(epoch=epoch, num_epochs=self.num_epochs)

    def _key(self, use: int, state: SearchState, index: int) -> jax.Array:
        """The key of a stage of a step.

        It depends only on the seed, the step, the stage and the use, so that a resumed
        run draws the same numbers as an uninterrupted one.
        """
        of_step = jax.random.fold_in(run_key(state.seed, use), state.step)
        return jax.random.fold_in(of_step, index)

    def _drop_path_options(self, index: int, state: SearchState, number) -> dict:
        """The supernet's options for drop-path; {} if the searcher drops no edges."""
        rate = self.searcher.drop_path_rate
        if rate == 0:
            return {}
        # Each microbatch has a key of its own. An undivided batch has that of the
        # stage.
        key = self._key(state_lib.DROPPED, state, index)
        if self.microbatches > 1:
            key = jax.random.fold_in(key, number)
        return {"drop_path_rate": rate, "rngs": {"drop_path": key}}
