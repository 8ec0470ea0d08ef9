"""The settings in which two runs differ, and which of them may."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from bnas_jax.settings import entries

# Settings that may change between two starts of one run: none of them changes what is
# trained, on what or how. On other devices, or with other parts of a batch, numbers are
# added up in another order, and differ by rounding. Settings of a searcher that only
# its derivation reads are free, too.
_FREE = (
    # What is saved and logged, and when.
    "log_every_steps",
    "checkpoint_every_steps",
    "checkpoint_every_minutes",
    "checkpoint",
    "eval_batch_size",
    # Where the same numbers are computed, and by what programs.
    "parallel",
    "steps_per_call",
    "distributed",
    "dataset.path",
    "dataset.workers",
    "network.edges",
    # Which genotype is derived in the end.
    "select",
    "alphas_as_of",
)

# Settings that --change may change, too: the network, the data and the number of steps
# in an epoch stay as they are.
CHANGEABLE = (
    "optimizer",
    "recipe",
    # A run that goes on draws none, but another recipe brings others.
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
# Not among them are these, which decide what state an optimizer has.
_OF_THE_STATE = ("optimizer.name", "alphas.optimizer")


class Difference(NamedTuple):
    """A setting in which two resolved configs differ.

    key: its name, without `config.`.
    ours, theirs: its values of JSON.
    """

    key: str
    ours: Any
    theirs: Any

    @property
    def is_free(self) -> bool:
        """Whether a run goes on with the other value, without `--change`."""
        derivation = [f"searcher.{name}" for name in entries.derivation_settings()]
        return _is_among(self.key, (*_FREE, *derivation))

    @property
    def is_changeable(self) -> bool:
        """Whether `--change` may change the setting in the middle of a run."""
        return _is_among(self.key, CHANGEABLE) and self.key not in _OF_THE_STATE

    def __str__(self) -> str:
        # Long lists, such as the names of classes, would hide the rest of the message.
        lists = isinstance(self.ours, list) and isinstance(self.theirs, list)
        if lists and max(len(self.ours), len(self.theirs)) > 3:
            return f"config.{self.key} is not the same as there"
        return f"config.{self.key} is {self.ours!r} now and {self.theirs!r} there"


def _is_among(key: str, names: tuple[str, ...]) -> bool:
    """Whether a setting, or a group that it is in, is one of the names."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


def differences(
    ours: Mapping, theirs: Mapping, prefix: str = ""
) -> Iterator[Difference]:
    """All settings in which two resolved configs differ, sorted by their names.

    prefix: of the names, in nested settings.
    """
    for key in sorted(set(ours) | set(theirs)):
        one, other = ours.get(key), theirs.get(key)
        if one == other:
            continue
        # Within a group, only the settings that differ are named.
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from differences(one, other, f"{prefix}{key}.")
        else:
            yield Difference(key=prefix + key, ours=one, theirs=other)


def first_difference(ours: Mapping, theirs: Mapping) -> str | None:
    """The first setting in which two resolved configs differ, free ones aside.

    It is given as `config.key is A now and B there`, see `Difference`.
    """
    for difference in differences(ours, theirs):
        if not difference.is_free:
            return str(difference)
    return None
