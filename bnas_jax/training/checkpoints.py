"""Checkpoints of everything a run is, by Orbax: saved in the background, the last and the best few kept."""

import concurrent.futures
import contextlib
import json
import logging
import math
import os
import pathlib
import re
import shutil
import sys
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from bnas_jax.core.errors import UserError
from bnas_jax.runtime import devices, hosts
from bnas_jax.runtime.devices import Devices
from bnas_jax.settings import CheckpointSettings
from bnas_jax.training import refit

# The variables are an item of their own, so that evaluation restores them alone.
VARIABLES = ("params", "batch_stats", "alphas")
_METRIC = "top1"


def _split(state) -> tuple[dict, dict]:
    """(what evaluation needs, the rest) of a state."""
    fields = {name: getattr(state, name) for name in state.__dataclass_fields__}
    variables = {name: value for name, value in fields.items() if name in VARIABLES}
    return variables, {name: value for name, value in fields.items() if name not in VARIABLES}


def _options(keep: CheckpointSettings) -> ocp.CheckpointManagerOptions:
    metric = lambda metrics: metrics[_METRIC]
    kept = [policies.LatestN(n=keep.keep_last)]
    if keep.keep_best:
        kept.append(
            policies.BestN(
                get_metric_fn=metric, n=keep.keep_best, keep_checkpoints_without_metrics=False
            )
        )
    return ocp.CheckpointManagerOptions(
        best_fn=metric, preservation_policy=policies.AnyPreservationPolicy(kept), create=True
    )


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        """Orbax asks JAX's preemption service by the number of the step, and would confuse the count of `Stops`."""
        return False


class Checkpoints:
    """The checkpoints of one work directory; without settings, to read only."""

    def __init__(
        self,
        directory: pathlib.Path,
        settings: CheckpointSettings | None = None,
        where: Devices = devices.ONE,
    ):
        self.directory = directory
        self._where, self._keep = where, settings
        self._manager = None
        self._worker = concurrent.futures.ThreadPoolExecutor(1, "save")
        self._saving: concurrent.futures.Future | None = None
        if settings is not None:
            hosts.on_first(self._put_back)
            hosts.on_first(self._set_scores_aside)
            with self._room():
                self._manager = _Manager(
                    directory, options=_options(settings), item_names=("variables", "rest")
                )
        _expect_late_answers()

    def save(self, step: int, state, top1: float | None = None) -> None:
        """Starts to save, once the save before has ended; a NaN is never the best. What was saved at that step is replaced.

        top1: what `best` goes by, None between two epochs.
        """
        manager = self._manager
        assert manager, "opened to read only"
        self.finish()
        if step in manager.all_steps():
            hosts.on_first(lambda: self._put_by(step))
            manager.reload()
        variables, rest = _split(self._where.saveable(state))
        metrics = None if top1 is None else {_METRIC: top1 if math.isfinite(top1) else -math.inf}
        items = ocp.args.Composite(
            variables=ocp.args.StandardSave(variables), rest=ocp.args.StandardSave(rest)
        )

        def write() -> None:
            manager.save(step, args=items, metrics=metrics)
            manager.wait_until_finished()

        if hosts.count() == 1:
            self._saving = self._worker.submit(write)
            return
        # Orbax makes processes wait for each other by a program on their devices. In a thread it would get between those of
        # the steps, elsewhere on each process, and all would hang.
        with self._room():
            manager.save(step, args=items, metrics=metrics)

    def finish(self) -> None:
        """Waits until what is being saved is on disk; `UserError` where that failed."""
        saving, self._saving = self._saving, None
        with self._room():
            if saving:
                saving.result()
            elif self._manager:
                self._manager.wait_until_finished()
            if self._manager and hosts.is_first():
                self._put_back()

    def last_before(self, step: int) -> int | None:
        """The newest checkpoint before a step at which a run was found to have diverged. Those from there on are set aside."""
        with contextlib.suppress(UserError):  # what was not saved is not there
            self.finish()
        diverged = [saved for saved in self.steps() if saved >= step]
        hosts.on_first(lambda: self._set_aside(diverged, "diverged"))
        return max(self.steps(), default=None)

    def close(self) -> None:
        """Waits for what is being saved."""
        try:
            self.finish()
        finally:
            self._worker.shutdown(wait=False)
        if self._manager:
            with self._room():
                self._manager.close()

    @contextlib.contextmanager
    def _room(self):
        """A save that fails, even one that was begun before, is a `UserError`; what was saved before it stays."""
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"cannot save a checkpoint in {self.directory} ({_first_line(error)}); make room there or mend it, the same"
                f" command goes on from step {max(self.steps(), default=0)}"
            ) from error

    @property
    def _replaced(self) -> pathlib.Path:
        """Where a checkpoint waits until the one that replaces it is on disk."""
        return self.directory.with_name("checkpoints_replaced")

    def _put_by(self, step: int) -> None:
        with self._room():
            self._replaced.mkdir(exist_ok=True)
            os.rename(self.directory / str(step), self._replaced / str(step))

    def _put_back(self) -> None:
        """Puts back what was not replaced in the end, and deletes what was."""
        if not self._replaced.is_dir():
            return
        for path in self._replaced.iterdir():
            if (self.directory / path.name).exists():
                shutil.rmtree(path)
            else:
                os.rename(path, self.directory / path.name)
        self._replaced.rmdir()

    def steps(self) -> list[int]:
        """Those saved to the end; until then their folders have other names."""
        return sorted(int(path.name) for path in self.directory.glob("*") if path.name.isdigit())

    def restore_state(self, shapes, changed: bool = False) -> Any | None:
        """The newest whole state, None where there is no checkpoint. shapes: a state of `ShapeDtypeStruct`s.

        changed: it may be of other precision, number of epochs, or clipping, and is brought into the form of `shapes`.
        `UserError` for one of another network or arithmetic, and where there is no room for the checkpoints to come.
        """
        self._check_disk(shapes)
        variables, rest = _split(shapes)
        items = {"variables": variables, "rest": rest}
        for step in self.steps()[-1:]:
            self._check_same(step, items, dtypes=not changed, changed=changed)
        restored = self._newest(items, self.steps(), set_aside=True, changed=changed)
        if restored is None:
            return None
        state = self._where.restored(
            type(shapes)(**restored[1]["variables"], **restored[1]["rest"])
        )
        return refit.with_epochs(state, shapes) if changed else state

    def restore_variables(self, shapes, which: str) -> tuple[int, dict]:
        """(step, variables) alone. which: `last`, `best` or a step. `UserError` where there is none."""
        found = self.find(which)
        steps = self.steps() if which == "last" else [found]
        self._check_same(
            found, {"variables": shapes}, dtypes=False
        )  # evaluation may ask for another arithmetic
        restored = self._newest({"variables": shapes}, steps, set_aside=False)
        assert restored is not None
        return restored[0], self._where.restored(restored[1]["variables"])

    def find(self, which: str) -> int:
        """The step of the checkpoint that `which` names: `last`, `best` or a step. `UserError` where there is none."""
        steps = self.steps()
        if not steps:
            raise UserError(
                f"no checkpoint in {self.directory}; run train with this --workdir first"
            )
        if which == "best":
            return self._best(steps)
        if which == "last":
            return steps[-1]
        if not which.isdigit() or int(which) not in steps:
            have = ", ".join(map(str, steps))
            raise UserError(
                f"no checkpoint of step {which} in {self.directory}; write best, last or one of {have}"
            )
        return int(which)

    def _check_disk(self, shapes) -> None:
        if self._keep is None:
            return
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
        more = (
            self._keep.keep_last + self._keep.keep_best + 1 - len(self.steps())
        )  # one of them is being written
        free = shutil.disk_usage(self.directory).free
        if size * more > free:
            raise UserError(
                f"no room for checkpoints in {self.directory}: {more} of {size / 1e6:.0f} MB are to come, {free / 1e6:.0f} MB"
                " are free; make room or lower config.checkpoint.keep_last"
            )

    def _check_same(
        self, step: int, items: dict, dtypes: bool = True, changed: bool = False
    ) -> None:
        """`UserError` naming the first leaf in which a checkpoint differs from what is wanted; Orbax would cast silently."""
        try:
            with ocp.StandardCheckpointer() as reader:
                saved = {
                    n: reader.metadata(self.directory / str(step) / n).item_metadata.tree
                    for n in items
                }
        except Exception:  # damaged, which restoring it deals with
            return
        ours, theirs = (_by_name(trees, links=not changed) for trees in (items, saved))
        for name in [*ours, *sorted(theirs.keys() - ours.keys())]:
            if changed and name.split("/")[0] in refit.PER_EPOCH:
                continue
            one, other = (_kind(leaves.get(name), dtypes) for leaves in (ours, theirs))
            if one != other:
                raise UserError(
                    f"the checkpoint of step {step} in {self.directory} is of another network or optimizer: {name} is {other}"
                    f" there and {one} here; take the settings it was saved with, or another --workdir"
                )

    def _best(self, steps: list[int]) -> int:
        scores = {step: self._score(step) for step in steps}
        best = max(
            (s for s in steps if scores[s] is not None), key=lambda s: (scores[s], s), default=None
        )
        if best is None:
            raise UserError(
                f"no checkpoint in {self.directory} has an accuracy yet; write last instead of best"
            )
        return best

    def _score(self, step: int) -> float | None:
        try:
            return float(json.loads(self._score_file(step).read_text())[_METRIC])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _score_file(self, step: int) -> pathlib.Path:
        return self.directory / str(step) / "metrics" / "metrics"

    def _newest(
        self, shapes: dict, steps: list[int], set_aside: bool, changed: bool = False
    ) -> tuple[int, dict] | None:
        damaged: list[int] = []
        for step in reversed(steps):
            restored, why = self._restore(step, shapes, changed)
            if restored is not None:
                if set_aside:
                    hosts.on_first(lambda: self._set_aside(damaged))
                    if damaged and self._manager:
                        self._manager.reload()
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

    def _restore(self, step: int, shapes: dict, changed: bool) -> tuple[dict | None, str]:
        folder = self.directory / str(step)
        try:
            with ocp.StandardCheckpointer() as reader:
                return {
                    name: self._read(reader, folder / name, item, changed)
                    for name, item in shapes.items()
                }, ""
        except MemoryError:
            raise
        except Exception as error:  # what Orbax raises for damaged files has no class in common
            return None, _first_line(error)

    def _read(self, reader: ocp.StandardCheckpointer, folder: pathlib.Path, shapes, changed: bool):
        """One item. changed: see `restore_state`; with as many rows for epochs as were saved."""
        if not changed:
            return reader.restore(folder, self._where.restorable(shapes))
        saved = refit.as_saved(shapes, reader.metadata(folder).item_metadata.tree)
        return refit.restructured(reader.restore(folder, self._where.restorable(saved)), shapes)

    def _set_aside(self, steps: list[int], kind: str = "damaged") -> None:
        """Moves checkpoints out of the way of those to come, deleting nothing."""
        for step in steps:
            target = self._move_aside(self.directory / str(step), str(step))
            _say(f"moved the {kind} checkpoint of step {step} to {target}")

    def _set_scores_aside(self) -> None:
        """The same for scores that cannot be read, which Orbax would not get over; the checkpoints themselves stay."""
        for step in self.steps():
            if self._score_file(step).is_file() and self._score(step) is None:
                target = self._move_aside(self._score_file(step), f"{step}.metrics")
                _say(
                    f"the accuracy noted with the checkpoint of step {step} cannot be read; moved it to {target}"
                )

    def _move_aside(self, path: pathlib.Path, name: str) -> pathlib.Path:
        folder = self.directory.with_name("checkpoints_damaged")
        folder.mkdir(exist_ok=True)
        target = next(
            t
            for t in (folder / n for n in (name, *(f"{name}.{i}" for i in range(1, 1000))))
            if not t.exists()
        )
        os.rename(path, target)
        return target


def _expect_late_answers() -> None:
    """Keeps quiet about what a failed restore leaves behind.

    Orbax gives up its event loop while other reads still run; for each of them Python would print a traceback.
    """
    previous = sys.unraisablehook
    if getattr(previous, "expects_late_answers", False):
        return

    def hook(unraisable) -> None:
        code = getattr(unraisable.object, "cr_code", None)  # of a coroutine
        from_orbax = code is not None and "orbax" in code.co_filename
        if not from_orbax and str(unraisable.exc_value) != "Event loop is closed":
            previous(unraisable)

    hook.expects_late_answers = True  # type: ignore[attr-defined]
    sys.unraisablehook = hook
    logging.getLogger("asyncio").addFilter(
        lambda record: "never retrieved" not in record.getMessage()
    )


def _by_name(items: dict, links: bool) -> dict[str, Any]:
    """The leaves of {item: tree}; see `refit.by_name`."""
    return {
        name: leaf for tree in items.values() for name, leaf in refit.by_name(tree, links).items()
    }


def _kind(leaf, dtypes: bool) -> str:
    if leaf is None:
        return "missing"
    return f"{leaf.dtype if dtypes else 'an array'} {tuple(leaf.shape)}"


def _first_line(error: Exception) -> str:
    """What Orbax says of a damaged file, where that is a sentence and no text of Python's for an object."""
    lines = str(error).strip().splitlines()
    if isinstance(error, (UnicodeError, json.JSONDecodeError)):
        return "what describes it cannot be read"
    if not lines or re.search(r"<(bound|built-in|function|class|module|\S+ object)\b", lines[0]):
        return "its files cannot be read"
    return lines[0][:160]


def _say(text: str) -> None:
    print(f"bnas_jax: {text}", file=sys.stderr, flush=True)
