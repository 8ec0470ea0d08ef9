"""Checkpoints of everything a run is, by Orbax: saved in the background, the last and the best few kept."""

import json
import math
import os
import pathlib
import sys
from typing import Any

import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from bnas_jax.core.errors import UserError
from bnas_jax.settings import CheckpointSettings
from bnas_jax.training import devices

# The variables are an item of their own, so that evaluation restores them alone.
VARIABLES = ("params", "batch_stats", "alphas")
_METRIC = "top1"


def _split(state) -> tuple[dict, dict]:
    """(what evaluation needs, the rest) of a state."""
    fields = {name: getattr(state, name) for name in state.__dataclass_fields__}
    variables = {name: value for name, value in fields.items() if name in VARIABLES}
    return variables, {name: value for name, value in fields.items() if name not in VARIABLES}


class Checkpoints:
    """The checkpoints of one work directory."""

    def __init__(self, directory: pathlib.Path, settings: CheckpointSettings | None = None):
        self.directory = directory
        keep = settings or CheckpointSettings()
        metric = lambda metrics: metrics[_METRIC]
        kept = [policies.LatestN(n=keep.keep_last)]
        if keep.keep_best:
            kept.append(policies.BestN(get_metric_fn=metric, n=keep.keep_best, keep_checkpoints_without_metrics=False))
        options = ocp.CheckpointManagerOptions(
            best_fn=metric,
            preservation_policy=policies.AnyPreservationPolicy(kept),
            create=settings is not None,
            read_only=settings is None,
        )
        self._manager = ocp.CheckpointManager(directory, options=options, item_names=("variables", "rest"))

    def save(self, step: int, state, top1: float | None = None) -> None:
        """Starts to save; a NaN is never the best. top1: what `best` goes by, None between two epochs."""
        variables, rest = _split(devices.copy(state))
        metrics = None if top1 is None else {_METRIC: top1 if math.isfinite(top1) else -math.inf}
        items = ocp.args.Composite(variables=ocp.args.StandardSave(variables), rest=ocp.args.StandardSave(rest))
        self._manager.save(step, args=items, metrics=metrics)

    def close(self) -> None:
        """Waits for what is being saved."""
        self._manager.wait_until_finished()
        self._manager.close()

    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def restore_state(self, shapes) -> Any | None:
        """The newest whole state, None where there is no checkpoint. shapes: a state of `ShapeDtypeStruct`s."""
        variables, rest = _split(shapes)
        restored = self._newest({"variables": variables, "rest": rest}, self.steps(), set_aside=True)
        return None if restored is None else type(shapes)(**restored[1]["variables"], **restored[1]["rest"])

    def restore_variables(self, shapes, which: str) -> tuple[int, dict]:
        """(step, variables) alone. which: `last`, `best` or a step. `UserError` where there is none."""
        steps = self.steps()
        if not steps:
            raise UserError(f"no checkpoint in {self.directory}; run train with this --workdir first")
        if which == "best":
            steps = [self._best(steps)]
        elif which != "last":
            if not which.isdigit() or int(which) not in steps:
                have = ", ".join(map(str, steps))
                raise UserError(f"no checkpoint of step {which} in {self.directory}; write best, last or one of {have}")
            steps = [int(which)]
        restored = self._newest({"variables": shapes}, steps, set_aside=False)
        assert restored is not None
        return restored[0], restored[1]["variables"]

    def _best(self, steps: list[int]) -> int:
        scores = {step: self._score(step) for step in steps}
        best = max((s for s in steps if scores[s] is not None), key=lambda s: (scores[s], s), default=None)
        if best is None:
            raise UserError(f"no checkpoint in {self.directory} has an accuracy yet; write --step=last")
        return best

    def _score(self, step: int) -> float | None:
        path = self.directory / str(step) / "metrics" / "metrics"
        try:
            return float(json.loads(path.read_text())[_METRIC])
        except (OSError, ValueError, KeyError):
            return None

    def _newest(self, shapes: dict, steps: list[int], set_aside: bool) -> tuple[int, dict] | None:
        damaged: list[int] = []
        for step in reversed(steps):
            restored, why = self._restore(step, shapes)
            if restored is not None:
                if set_aside:
                    self._set_aside(damaged)
                return step, restored
            damaged.append(step)
            _say(f"the checkpoint of step {step} is damaged ({why}); trying the one before")
        if not damaged:
            return None
        numbers = ", ".join(map(str, reversed(damaged)))
        raise UserError(
            f"no whole checkpoint in {self.directory}: damaged are steps {numbers}; nothing was deleted; "
            "put a good copy there or choose another --workdir"
        )

    def _restore(self, step: int, shapes: dict) -> tuple[dict | None, str]:
        targets = {name: ocp.args.StandardRestore(devices.restorable(item)) for name, item in shapes.items()}
        try:
            return dict(self._manager.restore(step, args=ocp.args.Composite(**targets)).items()), ""
        except (ValueError, KeyError, OSError, TypeError, json.JSONDecodeError) as error:
            lines = str(error).strip().splitlines()
            return None, (lines[0][:160] if lines else type(error).__name__)

    def _set_aside(self, steps: list[int]) -> None:
        """Moves damaged checkpoints out of the way of those to come, deleting nothing."""
        for step in steps:
            target = self.directory.with_name("checkpoints_damaged")
            target.mkdir(exist_ok=True)
            name = next(n for n in (f"{step}", *(f"{step}.{i}" for i in range(1, 1000))) if not (target / n).exists())
            os.rename(self.directory / str(step), target / name)
            _say(f"moved the damaged checkpoint of step {step} to {target / name}")
        if steps:
            self._manager.reload()


def _say(text: str) -> None:
    print(f"bnas_jax: {text}", file=sys.stderr, flush=True)
