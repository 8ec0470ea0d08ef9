"""The settings in which two runs differ, and which of these may change in a run."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from bnas_jax.settings import entries

# Settings that may change when a run is continued, because they change neither the
# model nor the data nor the training. On other devices sums are computed in another
# order, and differ by rounding. A searcher's settings of the derivation are free, too.
_FREE = (
    # Saving, logging and evaluating.
    "log_every_steps",
    "checkpoint_every_steps",
    "checkpoint_every_minutes",
    "checkpoint",
    "eval_batch_size",
    # The devices and the programs that compute the same numbers.
    "parallel",
    "steps_per_call",
    "distributed",
    "dataset.path",
    "dataset.workers",
    "network.edges",
    # The genotype that is derived at the end.
    "select",
    "alphas_as_of",
)

# Settings that --change may change as well. The network, the data and the number of
# steps in an epoch must stay.
CHANGEABLE = (
    "optimizer",
    "recipe",
    # Without effect on a run that is continued, but a new recipe may change it.
    "first_weights",
    "weights",
    "alphas",
    "precision",
    "activations",
    "num_epochs",
    "checkpoint",
    "checkpoint_every_steps",
    "checkpoint_every_minutes",
)
# Exceptions: the structure of an optimizer's state depends on these.
_OF_THE_STATE = ("optimizer.name", "alphas.optimizer")


class Difference(NamedTuple):
    """A setting in which two resolved configs differ.

    key: the name of the setting, without `config.`.
    ours, theirs: its values in the two configs, as in JSON.
    """

    key: str
    ours: Any
    theirs: Any

    @property
    def is_free(self) -> bool:
        """Whether a run may be continued with the other value without `--change`."""
        derivation = [f"searcher.{name}" for name in entries.derivation_settings()]
        return _is_among(self.key, (*_FREE, *derivation))

    @property
    def is_changeable(self) -> bool:
        """Whether `--change` may change the setting in the middle of a run."""
        return _is_among(self.key, CHANGEABLE) and self.key not in _OF_THE_STATE

    def __str__(self) -> str:
        # A long list, such as class names, would hide the rest of the message.
        lists = isinstance(self.ours, list) and isinstance(self.theirs, list)
        if lists and max(len(self.ours), len(self.theirs)) > 3:
            return f"config.{self.key} is not the same as there"
        return f"config.{self.key} is {self.ours!r} now and {self.theirs!r} there"


def _is_among(key: str, names: tuple[str, ...]) -> bool:
    """Whether a setting, or a group that contains it, is one of the names."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


def differences(
    ours: Mapping, theirs: Mapping, prefix: str = ""
) -> Iterator[Difference]:
    """All settings in which two resolved configs differ, sorted by name.

    prefix: the group of the settings, such as "optimizer."; "" for a whole config.
    """
    for key in sorted(set(ours) | set(theirs)):
        one, other = ours.get(key), theirs.get(key)
        if one == other:
            continue
        # In a group, compare each setting.
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from differences(one, other, f"{prefix}{key}.")
        else:
            yield Difference(key=prefix + key, ours=one, theirs=other)


def first_difference(ours: Mapping, theirs: Mapping) -> str | None:
    """The first difference of two resolved configs that is not free.

    It is a text such as `config.seed is 0 now and 1 there`, or None.
    """
    for difference in differences(ours, theirs):
        if not difference.is_free:
            return str(difference)
    return None
