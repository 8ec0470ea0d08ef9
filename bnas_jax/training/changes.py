"""Changes of settings in the middle of a run (`--change`).

`check` finds them and refuses those that are not allowed; `records` are their entries
in config.json.
"""

import pathlib
import shlex
from collections.abc import Mapping

from bnas_jax import settings
from bnas_jax.core.errors import UserError
from bnas_jax.settings import CHANGEABLE, Difference, Settings
from bnas_jax.training.build_optimizers import learning_rate

# With more differences than this, the command is rather for another run.
_FEW = 3


def check(
    now: Mapping, then: Mapping, path: pathlib.Path, *, change: bool, step: int
) -> list[Difference]:
    """The differences between the command's settings and those of the run at `path`.

    now: the settings of the command.
    then: the settings of the run so far.
    change: whether changes are allowed (`--change`).
    step: the step of the newest checkpoint.

    Raises `UserError` for the first difference that is never allowed, or not allowed
    without `--change`.
    """
    # A search cannot be continued as a training.
    if now["task"] != then.get("task", now["task"]):
        kinds = {"search": "a search", "train": "a training"}
        raise UserError(
            f"{path} holds {kinds.get(then['task'], 'another task')}; choose another "
            "--workdir"
        )

    # Free settings may always differ, such as `log_every_steps`.
    found = list(settings.differences(now, then))
    differing = [difference for difference in found if not difference.is_free]

    # Fixed settings may never differ.
    fixed = [difference for difference in differing if not difference.is_changeable]
    if fixed and change:
        allowed = ", ".join(f"config.{name}" for name in CHANGEABLE)
        raise UserError(
            f"{path} belongs to another run: {fixed[0]}, which --change cannot change "
            f"(it can: {allowed}, but no optimizer's name, as the saved state of one "
            "optimizer is of no use to another); choose another --workdir"
        )
    if fixed:
        raise UserError(
            f"{path} belongs to another run: {fixed[0]}; {_to_continue(fixed)}choose "
            "another --workdir"
        )

    # The other settings may differ with --change.
    if differing and not change:
        raise UserError(
            f"{path} belongs to another run: {differing[0]}; add --change to "
            f"continue from step {step} with it, or choose another --workdir"
        )

    if not change:
        return []
    return [difference for difference in found if difference.is_changeable]


def _to_continue(differences: list[Difference]) -> str:
    """How to write the settings of the run so far, for an error; "" if that is long.

    A preset may have changed since the run began, perhaps in a later version.
    """
    values = [difference.theirs for difference in differences]
    written = all(isinstance(value, bool | int | float | str) for value in values)
    if not written or len(values) > _FEW:
        return ""
    named = " ".join(
        f"--config.{difference.key}={shlex.quote(str(difference.theirs))}"
        for difference in differences
    )
    return f"write {named} to continue it, or "


def records(differences: list[Difference], step: int) -> list[dict]:
    """The entries of "changed" in config.json for settings that change at `step`."""
    entries = []
    for difference in differences:
        entry = {
            "step": step,
            "key": difference.key,
            "from": difference.theirs,
            "to": difference.ours,
        }
        entries.append(entry)
    return entries


def describe(changed: list[dict], rates: tuple[float, float] | None) -> str:
    """Changes in one line of text.

    changed: the entries that `records` returns.
    rates: the learning rate at the step of the change, before and after it; None if the
        run has no further step.
    """
    parts = []
    for record in changed:
        parts.append(f"config.{record['key']} from {record['from']} to {record['to']}")
    listed = f"changed at step {changed[0]['step']}: {', '.join(parts)}"
    if rates is None:
        return (
            f"{listed}; no step is to come, as the run has ended: a larger "
            "config.num_epochs trains it further"
        )
    before, after = rates
    return f"{listed}; learning rate {before:.4g} before, {after:.4g} from here on"


def rates(
    before: Settings, after: Settings, step: int, steps_per_epoch: int
) -> tuple[float, float]:
    """The learning rate at `step`, by the settings before and after a change."""
    # With fewer epochs, the schedule may have ended before: take its last rate.
    last = before.num_epochs * steps_per_epoch - 1
    rate_before = learning_rate(before, steps_per_epoch)
    rate_after = learning_rate(after, steps_per_epoch)
    return float(rate_before(min(step, last))), float(rate_after(step))
