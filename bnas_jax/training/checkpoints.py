"""Checkpoints of a run's whole state, by Orbax: saved in the background, the last and the best few kept."""

import concurrent.futures
import contextlib
import json
import logging
import math
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
from bnas_jax.training.checkpoint_folder import METRIC, CheckpointFolder, say

# The variables are a separate item of a checkpoint, so that evaluation restores them alone.
VARIABLES = ("params", "batch_stats", "alphas")


def _split(state) -> tuple[dict, dict]:
    """The fields of a state: (those that evaluation needs, the rest)."""
    variables: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for name in state.__dataclass_fields__:
        part = variables if name in VARIABLES else rest
        part[name] = getattr(state, name)
    return variables, rest


def _options(keep: CheckpointSettings) -> ocp.CheckpointManagerOptions:
    metric = lambda metrics: metrics[METRIC]
    kept = [policies.LatestN(n=keep.keep_last)]
    if keep.keep_best:
        # Checkpoints within an epoch have no accuracy: they are kept as the last ones only.
        best = policies.BestN(
            get_metric_fn=metric, n=keep.keep_best, keep_checkpoints_without_metrics=False
        )
        kept.append(best)
    return ocp.CheckpointManagerOptions(
        best_fn=metric, preservation_policy=policies.AnyPreservationPolicy(kept), create=True
    )


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        """Never: Orbax would ask JAX's preemption service by the number of the step, and mix up the questions of `Stops`."""
        return False


class Checkpoints(CheckpointFolder):
    """The checkpoints of one work directory; without settings, to read only."""

    def __init__(
        self,
        directory: pathlib.Path,
        settings: CheckpointSettings | None = None,
        where: Devices = devices.ONE,
    ):
        super().__init__(directory)
        self._where = where
        self._keep = settings
        self._manager = None
        # One thread saves while the steps go on.
        self._worker = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="save")
        self._saving: concurrent.futures.Future | None = None
        if settings is not None:
            # What a crash has left behind is mended before Orbax reads the directory.
            hosts.on_first(self._put_back)
            hosts.on_first(self._set_scores_aside)
            with self._room():
                self._manager = _Manager(
                    directory, options=_options(settings), item_names=("variables", "rest")
                )
        _expect_late_answers()

    def save(self, step: int, state, top1: float | None = None) -> None:
        """Starts to save, after the save before it has ended. A checkpoint of the same step is replaced.

        top1: the accuracy in % by which the best checkpoints are kept, None between two epochs; NaN is never the best.
        Raises `UserError` where the save before it failed.
        """
        manager = self._manager
        assert manager, "opened to read only"
        self.finish()

        # Orbax refuses to save a step twice, and deleting the old one first would leave nothing after a crash.
        if step in manager.all_steps():
            hosts.on_first(lambda: self._make_way(step))
            manager.reload()

        # A copy, as the next step reuses the state's buffers.
        variables, rest = _split(self._where.saveable(state))
        items = ocp.args.Composite(
            variables=ocp.args.StandardSave(variables), rest=ocp.args.StandardSave(rest)
        )
        metrics = None
        if top1 is not None:
            # NaN has no place in an order.
            if not math.isfinite(top1):
                top1 = -math.inf
            metrics = {METRIC: top1}

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
            # The new checkpoint is complete: the one that it replaces can go.
            if self._manager and hosts.is_first():
                self._put_back()

    def _make_way(self, step: int) -> None:
        with self._room():
            self._put_by(step)

    def last_before(self, step: int) -> int | None:
        """The newest checkpoint before a step, or None; those from that step on, of a run that diverged, are set aside."""
        # A failed save must not hide the divergence.
        with contextlib.suppress(UserError):
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
        # Orbax's threads end here.
        if self._manager:
            with self._room():
                self._manager.close()

    @contextlib.contextmanager
    def _room(self):
        """Turns errors of saving, even of a save that was begun before, into a `UserError`; what was saved before it stays."""
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"cannot save a checkpoint in {self.directory} ({_first_line(error)}); make room there or mend it, the same"
                f" command goes on from step {max(self.steps(), default=0)}"
            ) from error

    def restore_state(self, shapes, changed: bool = False) -> Any | None:
        """The newest whole state, None where there is no checkpoint. shapes: a state of `ShapeDtypeStruct`s.

        changed: it may be of other precision, number of epochs, or clipping, and is brought into the form of `shapes`.
        `UserError` for one of another network or arithmetic, and where there is no room for the checkpoints to come.
        """
        self._check_disk(shapes)
        variables, rest = _split(shapes)
        items = {"variables": variables, "rest": rest}
        # Older ones are of the same settings; an empty list skips the check.
        for step in self.steps()[-1:]:
            self._check_same(step, items, dtypes=not changed, changed=changed)

        restored = self._newest(items, self.steps(), set_aside=True, changed=changed)
        if restored is None:
            return None
        _, saved = restored
        state = type(shapes)(**saved["variables"], **saved["rest"])
        state = self._where.restored(state)
        if changed:
            return refit.with_epochs(state, shapes)
        return state

    def restore_variables(self, shapes, which: str) -> tuple[int, dict]:
        """(step, variables) alone. which: `last`, `best` or a step. `UserError` where there is none.

        shapes: {"params", "batch_stats"} of `ShapeDtypeStruct`s, perhaps of another number type than those saved.
        """
        found = self.find(which)
        # Where the last one is damaged, one before it will do; a checkpoint that was named must be that one.
        steps = [found]
        if which == "last":
            steps = self.steps()
        items = {"variables": shapes}
        self._check_same(found, items, dtypes=False)
        restored = self._newest(items, steps, set_aside=False)
        assert restored is not None
        step, saved = restored
        return step, self._where.restored(saved["variables"])

    def _check_disk(self, shapes) -> None:
        """`UserError` where the checkpoints that a run keeps will not fit on the disk."""
        if self._keep is None:
            return
        leaves = jax.tree.leaves(shapes)
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)  # bytes
        # All that are kept, and one that is being written.
        kept = self._keep.keep_last + self._keep.keep_best
        more = kept + 1 - len(self.steps())
        free = shutil.disk_usage(self.directory).free
        if size * more > free:
            raise UserError(
                f"no room for checkpoints in {self.directory}: {more} of {size / 1e6:.0f} MB are to come, {free / 1e6:.0f} MB"
                " are free; make room or lower config.checkpoint.keep_last"
            )

    def _check_same(
        self, step: int, items: dict, dtypes: bool = True, changed: bool = False
    ) -> None:
        """`UserError` naming the first leaf whose shape or type differs in a checkpoint; Orbax would cast silently.

        items: {name of an item: tree of `ShapeDtypeStruct`s}. dtypes: whether number types are compared.
        changed: see `restore_state`.
        """
        saved = {}
        try:
            with ocp.StandardCheckpointer() as reader:
                for name in items:
                    folder = self.directory / str(step) / name
                    saved[name] = reader.metadata(folder).item_metadata.tree
        except Exception:
            # Damaged, which is dealt with when it is restored.
            return

        ours = _by_name(items, links=not changed)
        theirs = _by_name(saved, links=not changed)
        for name in [*ours, *sorted(theirs.keys() - ours.keys())]:
            # Rows for epochs may be more or fewer after a change.
            if changed and name.split("/")[0] in refit.PER_EPOCH:
                continue
            here = _kind(ours.get(name), dtypes)
            there = _kind(theirs.get(name), dtypes)
            if here != there:
                raise UserError(
                    f"the checkpoint of step {step} in {self.directory} is of another network or optimizer: {name} is {there}"
                    f" there and {here} here; take the settings it was saved with, or another --workdir"
                )

    def _newest(
        self, shapes: dict, steps: list[int], set_aside: bool, changed: bool = False
    ) -> tuple[int, dict] | None:
        """(step, items) of the newest of these checkpoints that is not damaged, None where there are no checkpoints.

        set_aside: moves the damaged ones away. `UserError` where all are damaged; nothing is moved then.
        """
        damaged: list[int] = []
        for step in reversed(steps):
            restored, why = self._restore(step, shapes, changed=changed)
            if restored is not None:
                # Now there is a good one, a new save may take the damaged ones' steps.
                if set_aside:
                    hosts.on_first(lambda: self._set_aside(damaged))
                    if damaged and self._manager:
                        self._manager.reload()
                return step, restored
            damaged.append(step)
            if steps == [step] != self.steps():
                raise UserError(
                    f"the checkpoint of step {step} in {self.directory} is damaged ({why}); take another step, `last` is the"
                    " newest whole one"
                )
            say(f"the checkpoint of step {step} is damaged ({why}); trying the one before")
        if not damaged:
            return None
        # All are damaged: beginning anew would lose a run that can perhaps be mended.
        numbers = ", ".join(map(str, reversed(damaged)))
        raise UserError(
            f"no whole checkpoint in {self.directory}: damaged are steps {numbers}; nothing was deleted; "
            "put a good copy there or choose another --workdir"
        )

    def _restore(self, step: int, shapes: dict, changed: bool) -> tuple[dict | None, str]:
        """(items, "") of a checkpoint, or (None, what is wrong with it)."""
        folder = self.directory / str(step)
        restored, why = {}, ""
        try:
            with ocp.StandardCheckpointer() as reader:
                for name, item in shapes.items():
                    restored[name] = self._read(reader, folder / name, shapes=item, changed=changed)
        # What Orbax raises for damaged files has no class in common.
        except Exception as error:
            # For want of memory, XLA's included, a good checkpoint cannot be read, either.
            if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
                raise
            why = _first_line(error)
        # What one process cannot read none takes, or they would go on from different steps.
        why = next(filter(None, hosts.from_all(why)), "")
        if why:
            return None, why
        return restored, ""

    def _read(self, reader: ocp.StandardCheckpointer, folder: pathlib.Path, shapes, changed: bool):
        """One item of a checkpoint. changed: see `restore_state`; it keeps as many rows for epochs as were saved."""
        if not changed:
            return reader.restore(folder, self._where.restorable(shapes))
        # Orbax restores the structure that was saved; it is brought into ours afterwards.
        saved = refit.as_saved(wanted=shapes, saved=reader.metadata(folder).item_metadata.tree)
        restored = reader.restore(folder, self._where.restorable(saved))
        return refit.restructured(restored, wanted=shapes)


def _expect_late_answers() -> None:
    """Silences the tracebacks that a failed restore leaves behind.

    Orbax gives up its event loop while other reads still run; for each of them Python would print a traceback.
    """
    previous = sys.unraisablehook
    if getattr(previous, "expects_late_answers", False):
        return

    def hook(unraisable) -> None:
        # The code of a coroutine; other objects have none.
        code = getattr(unraisable.object, "cr_code", None)
        from_orbax = code is not None and "orbax" in code.co_filename
        if not from_orbax and str(unraisable.exc_value) != "Event loop is closed":
            previous(unraisable)

    hook.expects_late_answers = True  # type: ignore[attr-defined]
    sys.unraisablehook = hook
    logging.getLogger("asyncio").addFilter(
        lambda record: "never retrieved" not in record.getMessage()
    )


def _by_name(items: dict, links: bool) -> dict[str, Any]:
    """The leaves of {item: tree}, in one dict; see `refit.by_name`."""
    leaves = {}
    for tree in items.values():
        leaves.update(refit.by_name(tree, links))
    return leaves


def _kind(leaf, dtypes: bool) -> str:
    """The number type and the shape of a leaf, as an error names them."""
    if leaf is None:
        return "missing"
    kind = "an array"
    if dtypes:
        kind = leaf.dtype
    return f"{kind} {tuple(leaf.shape)}"


def _first_line(error: Exception) -> str:
    """The first line of an error of Orbax, where it is a sentence and not the text of a Python object."""
    lines = str(error).strip().splitlines()
    if isinstance(error, (UnicodeError, json.JSONDecodeError)):
        return "what describes it cannot be read"
    if not lines or re.search(r"<(bound|built-in|function|class|module|\S+ object)\b", lines[0]):
        return "its files cannot be read"
    return lines[0][:160]
