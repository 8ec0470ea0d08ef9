"""In which settings two runs differ, and which of them may."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from bnas_jax.settings import entries

# Settings that may change between the stops of one run: none of them says what is trained, on what or how. Numbers of the same
# run differ by rounding alone where other devices, or other parts of a batch, are added up. Those of a searcher that its
# derivation alone reads are free, too.
_FREE = (
    *(
        "log_every_steps",
        "checkpoint_every_steps",
        "checkpoint_every_minutes",
        "checkpoint",
        "eval_batch_size",
    ),
    *(
        "parallel",
        "steps_per_call",
        "distributed",
        "dataset.path",
        "dataset.workers",
        "network.edges",
    ),
    *("select", "alphas_as_of"),
)


# Those that --change may change beside them: the network, the data and the count of steps stay what they are.
CHANGEABLE = (
    *("optimizer", "recipe", "weights", "alphas", "precision", "activations", "num_epochs"),
    *("checkpoint", "checkpoint_every_steps", "checkpoint_every_minutes"),
)


class Difference(NamedTuple):
    """A setting in which two resolved configs differ. key: without `config.`; ours, theirs: its JSON values."""

    key: str
    ours: Any
    theirs: Any

    @property
    def is_free(self) -> bool:
        return _is_among(self.key, (*_FREE, *entries.derivation_settings()))

    @property
    def is_changeable(self) -> bool:
        return _is_among(self.key, CHANGEABLE)

    def __str__(self) -> str:
        if (
            isinstance(self.ours, list)
            and isinstance(self.theirs, list)
            and max(len(self.ours), len(self.theirs)) > 3
        ):
            return f"config.{self.key} is not the same as there"
        return f"config.{self.key} is {self.ours!r} now and {self.theirs!r} there"


def _is_among(key: str, names: tuple[str, ...]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def differences(ours: Mapping, theirs: Mapping, prefix: str = "") -> Iterator[Difference]:
    """All settings in which two resolved configs differ, by their names."""
    for key in sorted(set(ours) | set(theirs)):
        one, other = ours.get(key), theirs.get(key)
        if one == other:
            continue
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from differences(one, other, f"{prefix}{key}.")
        else:
            yield Difference(prefix + key, one, other)


def first_difference(ours: Mapping, theirs: Mapping) -> str | None:
    """The first setting in which two resolved configs differ, free ones aside, as `config.key is A now and B there`."""
    return next((str(d) for d in differences(ours, theirs) if not d.is_free), None)
