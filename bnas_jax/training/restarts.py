"""Restarts of a search: the state with which the next candidate begins.

Searchers with `restart_epochs` train one candidate after another, each from the same
first weights (`Searcher.restart`).
"""

import jax
import jax.numpy as jnp
import numpy as np

from bnas_jax.search.searcher import Tried
from bnas_jax.training import state as state_lib
from bnas_jax.training.search_step import SearchStep
from bnas_jax.training.state import SearchState, run_key


def restarted(
    step: SearchStep, state: SearchState, first: SearchState, *, number: int
) -> SearchState:
    """The state after a restart in the middle of a run.

    Weights, batch statistics and the optimizer's state are those of the first state.
    The searcher gives the next alpha, from all candidates so far. The step, the history
    and the accuracies are kept.

    first: the state before the first step (`SearchStep.init`).
    number: the number of the restart, from 1.
    """
    key = jax.random.fold_in(run_key(state.seed, state_lib.ALPHAS), number)
    # A number of epochs, as there was a restart.
    period = step.searcher.restart_epochs or 1
    tried = _tried(state, number, period=period)
    dtype = step.supernet.arithmetic.dtype
    # It may be made with NumPy.
    alphas = {}
    for name, value in step.searcher.restart(key, tried, dtype).items():
        alphas[name] = jnp.asarray(value, dtype)
    return state.replace(
        params=first.params,
        batch_stats=first.batch_stats,
        opt_state=first.opt_state,
        alphas=alphas,
    )


def _tried(state: SearchState, number: int, *, period: int) -> list[Tried]:
    """The candidates before a restart.

    number: the number of the restart, from 1.
    period: the number of epochs of a candidate.
    """
    tried = []
    for restart in range(1, number + 1):
        # Row 0 of the history is alpha before the first epoch.
        ended = restart * period
        of_row = lambda rows, row=ended: np.asarray(rows[row])
        alphas = jax.tree.map(of_row, state.history)
        tried.append(Tried(alphas, top1=float(state.valid_top1[ended - 1])))
    return tried
