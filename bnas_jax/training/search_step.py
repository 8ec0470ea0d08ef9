"""The step of the search: a frozen dataclass, called as `step(state, batches)` under
`jax.jit`.

It is written for one device and its part of the batches, with the name of a mapped axis
to average over.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bnas_jax.core.errors import UserError
from bnas_jax.core.supernet import Supernet
from bnas_jax.search.searcher import ALPHAS, WEIGHTS, Progress, Searcher
from bnas_jax.training import state as state_lib
from bnas_jax.training.collectives import average
from bnas_jax.training.losses import cross_entropy, hits
from bnas_jax.training.optimizers import check_latents
from bnas_jax.training.state import (
    STEPS,
    SearchState,
    initial_variables,
    run_key,
    search_state_of,
)
from bnas_jax.training.step_parts import Batch, accumulate, noted


@dataclasses.dataclass(frozen=True)
class SearchStep:
    """One step of the search: `step(state, batches) -> state`, batches {"train": batch,
    "valid": batch}.

    The searcher says which stages it has; `stage(index)` gives them one by one.
    weights, alphas: the optimizers of the supernet's weights and of alpha. num_epochs,
    steps_per_epoch: of the search, for what is annealed. The rest as `TrainStep`.

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
        # A searcher's name, or its class without the brackets.
        if not isinstance(self.searcher, Searcher):
            raise UserError(
                f"searcher must be an object such as Bnas(), got {self.searcher!r}"
            )
        object.__setattr__(self, "searcher", self.searcher.of(self.supernet))

    def init(self, *, seed: int = 0, image_shape: tuple[int, int, int]) -> SearchState:
        """The state of a new search. seed: of all that is drawn, in its steps too.
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
        """The state after the stage of that number. batches: at least those that the
        stage takes.
        """
        stage = self.searcher.stages[index]
        batch = batches[stage.batches[0]]

        # A searcher may have another gradient with respect to alpha than that of the
        # loss, such as the second order of DARTS.
        gradients: dict[str, Any] = {}
        if ALPHAS in stage.moves:
            stage_batches = {name: batches[name] for name in stage.batches}
            gradients = self._searcher_gradient(index, state, batches=stage_batches)

        # The gradients of the loss at the rest of what the stage moves, all by one
        # backward pass.
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

            aside = noted(
                self,
                state,
                grads=gradients[WEIGHTS],
                loss=loss,
                correct=correct,
                batch=batch,
            )
            state = state.replace(params=params, opt_state=opt_state, **aside)

        # A step ends with its last stage.
        if index == len(self.searcher.stages) - 1:
            state = state.replace(step=state.step + 1)
        return state

    def restarted(
        self, state: SearchState, first: SearchState, *, number: int
    ) -> SearchState:
        """A search that begins anew: the weights of its first state, and an alpha of
        its own for each restart.

        first: what `init` gave. number: of the restart, from 1 on. Steps, history and
        accuracies go on.
        """
        key = jax.random.fold_in(run_key(state.seed, state_lib.ALPHAS), number)
        return state.replace(
            params=first.params,
            batch_stats=first.batch_stats,
            opt_state=first.opt_state,
            alphas=self.searcher.init(key, self.supernet.arithmetic.dtype),
        )

    def _mean(self, function: Callable, batch: Batch) -> Any:
        """The mean of `function(part, number)` over the microbatches of all devices."""
        return average(accumulate(function, batch, parts=self.microbatches), self.axis)

    def _gradient(
        self,
        index: int,
        state: SearchState,
        batch: Batch,
        number,
        names: frozenset[str],
    ) -> tuple:
        """(batch statistics, gradients at `names`, of `WEIGHTS` and `ALPHAS`, loss,
        hits) of a microbatch.
        """
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

        # In the order of their names, which a set does not keep: the compiled program
        # must not depend on it.
        at = {name: position[name] for name in sorted(names)}
        gradients, (loss, batch_stats, correct) = jax.grad(objective, has_aux=True)(at)
        return batch_stats, gradients, loss, correct

    def _searcher_gradient(
        self, index: int, state: SearchState, batches: Mapping[str, Batch]
    ) -> dict[str, Any]:
        """{"alphas": the gradient that the searcher itself defines at alpha}, {} where
        it defines none.
        """
        supernet = self.supernet
        if self.searcher.second_order:
            # The sums of signs are integers elsewhere, which carry no derivative.
            plain = dataclasses.replace(supernet.arithmetic, plain=True)
            supernet = supernet.clone(arithmetic=plain)

        # The mean over a batch's microbatches of `function`, which is given the loss as
        # a function of (weights, alphas).
        def mean(function, name):
            def of_part(part, number):
                forward = self._forward(index, state, part, number, supernet=supernet)
                return function(lambda params, alphas: forward(params, alphas)[0])

            return self._mean(of_part, batches[name])

        # Where the next step would bring the weights: second-order DARTS differentiates
        # there.
        def virtual(params, gradients):
            optimizer = getattr(self.weights, "unclipped", self.weights)
            updates, _ = optimizer.update(gradients, state.opt_state, params)
            return optax.apply_updates(params, updates)

        gradient = self.searcher.gradient(mean, virtual, state.params, state.alphas)
        if gradient is None:
            return {}
        # And what the objective adds to the loss, as for any gradient with respect to
        # alpha.
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
        """(params, alphas) -> (mean cross-entropy, (batch statistics, hits)) of a
        microbatch.
        """
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
        """The weights of the layer types: what is drawn is the same on all devices and
        for all microbatches.
        """
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
        """The key of a stage of a step, so that a resumed run draws what an
        uninterrupted one draws.
        """
        of_step = jax.random.fold_in(run_key(state.seed, use), state.step)
        return jax.random.fold_in(of_step, index)

    def _drop_path_options(self, index: int, state: SearchState, number) -> dict:
        """The supernet's options to drop edges at random; {} where the searcher drops
        none.
        """
        rate = self.searcher.drop_path_rate
        if rate == 0:
            return {}
        key = self._key(state_lib.DROPPED, state, index)
        # Each microbatch drops other edges; a batch in one piece is drawn for by the
        # key of the step.
        if self.microbatches > 1:
            key = jax.random.fold_in(key, number)
        return {"drop_path_rate": rate, "rngs": {"drop_path": key}}
