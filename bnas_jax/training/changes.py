"""Settings of a run that `--change` changes on its way: what may change, and what config.json says of it."""

import pathlib
from collections.abc import Mapping

from bnas_jax import settings
from bnas_jax.core.errors import UserError
from bnas_jax.settings import CHANGEABLE, Difference, Settings
from bnas_jax.training.build import learning_rate


def check(
    now: Mapping, then: Mapping, path: pathlib.Path, *, change: bool, step: int
) -> list[Difference]:
    """What `change` is to change in the run at `path`, of which `then` are the settings so far and `now` those given.

    `UserError` for the first difference that is not allowed, or not without `change`. step: that of the newest checkpoint.
    """
    if now["task"] != then.get("task", now["task"]):
        kinds = {"search": "a search", "train": "a training"}
        raise UserError(
            f"{path} holds {kinds.get(then['task'], 'another task')}; choose another --workdir"
        )
    found = list(settings.differences(now, then))
    differing = [d for d in found if not d.is_free]
    fixed = next((d for d in differing if not d.is_changeable), None)
    if fixed and change:
        allowed = ", ".join(f"config.{name}" for name in CHANGEABLE)
        raise UserError(
            f"{path} belongs to another run: {fixed}, which --change cannot change (it can: {allowed});"
            " choose another --workdir"
        )
    if fixed:
        raise UserError(f"{path} belongs to another run: {fixed}; choose another --workdir")
    if differing and not change:
        raise UserError(
            f"{path} belongs to another run: {differing[0]}; add --change to go on from step {step} with it,"
            " or choose another --workdir"
        )
    return [d for d in found if change and d.is_changeable]


def records(differences: list[Difference], step: int) -> list[dict]:
    """What config.json says of changes from `step` on."""
    return [{"step": step, "key": d.key, "from": d.theirs, "to": d.ours} for d in differences]


def describe(changed: list[dict], rates: tuple[float, float]) -> str:
    """One line. rates: the learning rate at the step of the change by the settings before, and by those after."""
    listed = ", ".join(
        f"config.{record['key']} from {record['from']} to {record['to']}" for record in changed
    )
    before, after = rates
    return f"changed at step {changed[0]['step']}: {listed}; learning rate {before:.4g} before, {after:.4g} from here on"


def rates(
    before: Settings, after: Settings, step: int, steps_per_epoch: int
) -> tuple[float, float]:
    """The learning rate at a step by the settings before, that of their last step where they end earlier, and after."""
    last = before.num_epochs * steps_per_epoch - 1
    old, new = (learning_rate(run, steps_per_epoch) for run in (before, after))
    return float(old(min(step, last))), float(new(step))
