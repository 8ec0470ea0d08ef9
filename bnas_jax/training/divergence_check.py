"""`DivergenceCheck`: stops a run that has diverged, and says how to continue it."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from bnas_jax.core.errors import UserError
from bnas_jax.settings import SearchSettings, Settings
from bnas_jax.training import divergence
from bnas_jax.training.checkpoint_reader import VARIABLES
from bnas_jax.training.checkpoints import Checkpoints
from bnas_jax.training.workdir import WorkDir

# No training recovers from this mean cross-entropy: the right class has the probability
# exp(-10000).
EXPLODED = 1e4


@dataclasses.dataclass(frozen=True)
class DivergenceCheck:
    """Checks the states of a run for a loss or weights that are not finite."""

    settings: Settings
    workdir: WorkDir
    checkpoints: Checkpoints

    def check_loss(self, state) -> None:
        """Raises `UserError` if the epoch's loss so far is too large or not finite."""
        loss = float(state.sums.loss)  # a sum over the examples
        examples = float(state.sums.examples)
        if not math.isfinite(loss):
            raise self._diverged(state, f"the loss became {loss}")
        # At the beginning of an epoch no example has been summed yet.
        if loss > EXPLODED * max(examples, 1):
            raise self._diverged(
                state, f"the mean loss of the epoch exploded to {loss / examples:.3g}"
            )

    def check_whole(self, state) -> None:
        """`check_loss`, and raises `UserError` if any weight is not finite.

        It is called before a checkpoint: the weights may have diverged in the last
        step, which the loss does not show yet.
        """
        self.check_loss(state)
        # A search has alphas, a training has none.
        variables = {name: getattr(state, name, None) for name in VARIABLES}
        if not all_finite(variables):
            raise self._diverged(state, "the weights are no longer finite")

    def _diverged(self, state, what: str) -> UserError:
        """The error for a run that has diverged.

        It says where the divergence began, and how to continue from the last good
        checkpoint. Later checkpoints are moved to `checkpoints_damaged`.
        """
        step = int(state.step)
        began = divergence.describe(state.guard, state.params)
        section = "optimizer"
        if isinstance(self.settings, SearchSettings):
            section = "weights"

        # The last good checkpoint is the last one before the first gradient that was
        # not finite. Later ones are not good, even if their weights are finite.
        broken = divergence.first_step(state.guard)
        if broken is None:
            broken = step
        good = self.checkpoints.last_before(broken)
        goes_on = "starts again, as there is no good checkpoint"
        if good is not None:
            goes_on = (
                f"continues from step {good}, the last good checkpoint in "
                f"{self.workdir.checkpoints}"
            )
        return UserError(
            f"{what} by step {step}{began}; lower the learning rate or clip the "
            "gradient: the same command with --change and a smaller "
            f"--config.{section}.learning_rate or --config.{section}.clip_norm "
            f"{goes_on}"
        )


@jax.jit
def all_finite(tree) -> jax.Array:
    """Whether no array of the tree holds a NaN or an infinity."""
    finite = []
    for leaf in jax.tree.leaves(tree):
        finite.append(jnp.all(jnp.isfinite(leaf)))
    return jnp.all(jnp.array(finite))
