"""The step of the search: a frozen dataclass, called as `step(state, batches)`.

It runs under `jax.jit`. It is written for one device and that device's part of the
batches. `axis` names the mapped axis of several devices, over which it averages.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bnas_jax.core.errors import UserError
from bnas_jax.core.losses import cross_entropy, hits
from bnas_jax.core.supernet import Supernet
from bnas_jax.search.searcher import ALPHAS, WEIGHTS, Progress, Searcher, Tried
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
    noted,
    of_images,
)


@dataclasses.dataclass(frozen=True)
class SearchStep:
    """One step of the search: `step(state, batches) -> state`.

    batches are {"train": batch, "valid": batch}, each as `TrainStep` takes it. The
    searcher says which stages a step has, for instance one that moves alpha and one
    that moves the weights. `stage(index, ...)` runs one of them.

    weights, alphas: the optimizers of the supernet's weights and of alpha.
    num_epochs, steps_per_epoch: of the search, for what is annealed.
    microbatches, axis: see `TrainStep`.

    Raises `UserError` for what is no searcher, and for an optimizer of the weights that
    treats latent weights otherwise than the supernet's scheme does. The call raises it
    for batches that `TrainStep` would not take, and where one is missing.

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
        check_optimizer("weights", self.weights)
        check_optimizer("alphas", self.alphas)
        check_latents(self.weights, self.supernet.scheme)
        # A common slip is a searcher's name, or its class without the brackets.
        if not isinstance(self.searcher, Searcher):
            raise UserError(
                f"searcher must be an object such as Bnas(), got {self.searcher!r}"
            )
        # The dataclass is frozen, so that a plain assignment would be refused.
        object.__setattr__(self, "searcher", self.searcher.of(self.supernet))

    def init(self, *, seed: int = 0, image_shape: tuple[int, int, int]) -> SearchState:
        """The state of a new search.

        seed: of everything that is drawn, in the steps too.
        image_shape: (H, W, C).
        """
        dtype = self.supernet.arithmetic.dtype
        # Alpha and the weights are drawn by different keys.
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
        batches: at least those that the stage takes.
        """
        stage = self.searcher.stages[index]
        self._check(batches, names=stage.batches)
        # The objective is the loss on the first of the stage's batches.
        batch = batches[stage.batches[0]]

        # Some searchers define their own gradient with respect to alpha, such as
        # second-order DARTS.
        gradients: dict[str, Any] = {}
        if ALPHAS in stage.moves:
            stage_batches = {name: batches[name] for name in stage.batches}
            gradients = self._searcher_gradient(index, state, batches=stage_batches)

        # All other gradients that the stage needs are those of the objective. One
        # backward pass gives them.
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

        # The update of the weights, and what the state notes of it.
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

    def restarted(
        self, state: SearchState, first: SearchState, *, number: int
    ) -> SearchState:
        """A search that begins anew in the middle of a run.

        The weights are those of its first state. Alpha is what the searcher makes of
        all candidates so far. Steps, history and accuracies go on.

        first: what `init` gave.
        number: of the restart, from 1.
        """
        key = jax.random.fold_in(run_key(state.seed, state_lib.ALPHAS), number)
        tried = self._tried(state, number)
        dtype = self.supernet.arithmetic.dtype
        # It may be made with NumPy.
        alphas = {}
        for name, value in self.searcher.restart(key, tried, dtype).items():
            alphas[name] = jnp.asarray(value, dtype)
        return state.replace(
            params=first.params,
            batch_stats=first.batch_stats,
            opt_state=first.opt_state,
            alphas=alphas,
        )

    def _tried(self, state: SearchState, number: int) -> list[Tried]:
        """The candidates before a restart, which has that number."""
        # A number of epochs, as there was a restart.
        period = self.searcher.restart_epochs or 1
        tried = []
        for restart in range(1, number + 1):
            # Row 0 of the history is alpha before the first epoch.
            ended = restart * period
            of_row = lambda rows, row=ended: np.asarray(rows[row])
            alphas = jax.tree.map(of_row, state.history)
            tried.append(Tried(alphas, top1=float(state.valid_top1[ended - 1])))
        return tried

    def _move_alphas(self, state: SearchState, grads: Any) -> SearchState:
        """The state after an update of alpha by its optimizer."""
        updates, opt_state = self.alphas.update(
            grads, state.alphas_opt_state, params=state.alphas
        )
        alphas = optax.apply_updates(state.alphas, updates)
        return state.replace(alphas=alphas, alphas_opt_state=opt_state)

    def _move_weights(self, state: SearchState, grads: Any, *, loss) -> SearchState:
        """The state after an update of the weights by their optimizer."""
        # Latent weights are projected by the last link of the optimizer's chain.
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

        names: which gradients, of `WEIGHTS` and `ALPHAS`; they are returned under these
            names.
        """
        position = {WEIGHTS: state.params, ALPHAS: state.alphas}
        moves_alphas = ALPHAS in self.searcher.stages[index].moves

        def objective(at):
            # What is not in `names` enters as a constant.
            params = at.get(WEIGHTS, state.params)
            alphas = at.get(ALPHAS, state.alphas)
            forward = self._forward(index, state, batch, number, supernet=self.supernet)
            loss, aside = forward(params, alphas)

            # What the searcher adds is differentiated, too. The loss of the epoch's
            # record is the cross-entropy alone.
            total = loss
            if moves_alphas:
                total = loss + self._added(index, state, alphas)
            return total, (loss, *aside)

        # Sorted, as a set has no order of its own and the compiled program must always
        # be the same.
        at = {name: position[name] for name in sorted(names)}
        gradients, (loss, batch_stats, correct) = jax.grad(objective, has_aux=True)(at)
        return batch_stats, gradients, loss, correct

    def _searcher_gradient(
        self, index: int, state: SearchState, batches: Mapping[str, Batch]
    ) -> dict[str, Any]:
        """{"alphas": the gradient that the searcher itself defines}.

        {} where it defines none. See `Searcher.gradient`, to which `mean` and `virtual`
        are passed.
        """
        supernet = self.supernet
        if self.searcher.second_order:
            # Second derivatives need the plain arithmetic. The other one computes sums
            # of signs as integers, which carry no derivative.
            plain = dataclasses.replace(supernet.arithmetic, plain=True)
            supernet = supernet.clone(arithmetic=plain)

        # The mean of `function(loss)` over the parts of a batch, where `loss` is that
        # of the part as a function of (weights, alpha).
        def mean(function, name):
            def of_part(part, number):
                forward = self._forward(index, state, part, number, supernet=supernet)
                loss = lambda params, alphas: forward(params, alphas)[0]
                return function(loss)

            return self._mean(of_part, batches[name])

        # Where an update would bring the weights: second-order DARTS differentiates
        # there.
        def virtual(params, gradients):
            optimizer = getattr(self.weights, "unclipped", self.weights)
            updates, _ = optimizer.update(gradients, state.opt_state, params)
            return optax.apply_updates(params, updates)

        gradient = self.searcher.gradient(mean, virtual, state.params, state.alphas)
        if gradient is None:
            return {}

        # The gradient of what the objective adds to the loss, as in `_gradient`.
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
        """The supernet on a microbatch, as a function of weights and alpha.

        It is (params, alphas) -> (mean cross-entropy, (batch statistics, hits)).
        """
        options = self._drop_path_options(index, state, number)
        labels = batch["label"]  # (N,)

        def forward(params, alphas):
            variables = {"params": params, "batch_stats": state.batch_stats}
            mixture = self._mixture(index, state, alphas)  # (14, types) of each cell

            # What some searchers add to all outputs of an edge, from the key of the
            # mixture.
            key = self._key(STEPS, state, index)
            scalars = self.searcher.scalars(alphas, key, self._progress(state))
            if scalars is not None:
                options["scalars"] = scalars

            images = batch["image"]  # [N, H, W, C]
            with of_images(images):
                logits, new = supernet.apply(  # [N, classes]
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
        """The weights of the layer types, (14, types) for each cell.

        What is drawn is the same on all devices and for all microbatches.
        """
        key = self._key(STEPS, state, index)
        progress = self._progress(state)
        return self.searcher.weights(alphas, key, progress)

    def _added(self, index: int, state: SearchState, alphas) -> jax.Array:
        """What the searcher's objective adds to the cross-entropy, a scalar."""
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

        It depends on the seed, the step and the stage alone, so that a resumed run
        draws what an uninterrupted one draws.
        """
        of_step = jax.random.fold_in(run_key(state.seed, use), state.step)
        return jax.random.fold_in(of_step, index)

    def _drop_path_options(self, index: int, state: SearchState, number) -> dict:
        """The supernet's options to drop edges at random.

        {} where the searcher drops none.
        """
        rate = self.searcher.drop_path_rate
        if rate == 0:
            return {}
        # Each microbatch drops other edges. A batch in one piece takes the key of the
        # stage.
        key = self._key(state_lib.DROPPED, state, index)
        if self.microbatches > 1:
            key = jax.random.fold_in(key, number)
        return {"drop_path_rate": rate, "rngs": {"drop_path": key}}
