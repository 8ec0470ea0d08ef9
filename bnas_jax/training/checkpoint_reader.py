"""`CheckpointReader`: restores a run's newest undamaged checkpoint, or a given one."""

import errno
import json
import logging
import os
import pathlib
import re
import sys
from typing import Any

import jax
import orbax.checkpoint as ocp

from bnas_jax.core.errors import UserError
from bnas_jax.runtime import devices, hosts
from bnas_jax.runtime.devices import Devices
from bnas_jax.training import checksums, refit
from bnas_jax.training.checkpoint_folder import CheckpointFolder, say

# The fields of a state that an evaluation needs. They are a separate item of a
# checkpoint, so that they can be restored without the rest.
VARIABLES = ("params", "batch_stats", "alphas")
# The items of a checkpoint, as `split` divides a state.
ITEMS = ("variables", "rest")


# What the system says if a disk is full, or cannot be written or read.
_OF_DISKS = tuple(
    os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
)
# The text of a Python object, such as <built-in method ...> or <Future object at ...>.
_PYTHON_OBJECT = re.compile(r"<(bound|built-in|function|class|module|\S+ object)\b")


def split(state) -> tuple[dict, dict]:
    """The fields of a state: (those that evaluation needs, the rest)."""
    variables: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for name in state.__dataclass_fields__:
        part = variables if name in VARIABLES else rest
        part[name] = getattr(state, name)
    return variables, rest


class CheckpointReader(CheckpointFolder):
    """Reads the checkpoints of a work directory; moves and deletes nothing.

    where: the devices to restore to.
    """

    def __init__(self, directory: pathlib.Path, where: Devices = devices.ONE):
        super().__init__(directory)
        self._where = where
        _expect_late_answers()

    def restore_variables(self, shapes, which: str) -> tuple[int, dict]:
        """(step, variables) of a checkpoint, without the rest of the state.

        shapes: {"params", "batch_stats"} of `ShapeDtypeStruct`s, perhaps of another
            number type than those saved.
        which: `last`, `best` or a step.

        Raises `UserError` where there is no such checkpoint.
        """
        found = int(hosts.from_first(str(self.find(which))))
        # `last` may fall back to an earlier checkpoint if the last one is damaged. A
        # given checkpoint has no substitute.
        steps = [found]
        if which == "last":
            steps = self._steps_of_first()
        items = {"variables": shapes}
        self._check_same(found, items, dtypes=False)
        restored = self._newest(items, steps)
        assert restored is not None
        step, saved, _ = restored
        return step, self._where.restored(saved["variables"])

    def _steps_of_first(self) -> list[int]:
        """The steps that the first process finds, on every process.

        On a network file system, another process may not see the newest one yet.
        """
        return json.loads(hosts.from_first(json.dumps(self.steps())))

    def _check_same(
        self, step: int, items: dict, dtypes: bool = True, changed: bool = False
    ) -> None:
        """Raises `UserError` for the first leaf of another shape or number type.

        Orbax would cast such a leaf silently.

        step: the step of the checkpoint.
        items: {name of an item: tree of `ShapeDtypeStruct`s}.
        dtypes: whether number types are compared.
        changed: see `Checkpoints.restore_state`.
        """
        # What was saved.
        saved = {}
        try:
            with ocp.StandardCheckpointer() as reader:
                for name in items:
                    folder = self.directory / str(step) / name
                    saved[name] = reader.metadata(folder).item_metadata.tree
        except Exception:
            # The checkpoint is damaged: restoring it will say so.
            return

        # Compare leaf by leaf, first those of this run.
        ours = _by_name(items, links=not changed)
        theirs = _by_name(saved, links=not changed)
        theirs = refit.in_leaves(theirs, ours, cut=_shape_of_part)
        for name in [*ours, *sorted(theirs.keys() - ours.keys())]:
            # A change of `num_epochs` changes the number of rows for epochs.
            if changed and name.split("/")[0] in refit.PER_EPOCH:
                continue
            here = _kind(ours.get(name), dtypes)
            there = _kind(theirs.get(name), dtypes)
            if here != there:
                raise UserError(
                    f"the checkpoint of step {step} in {self.directory} is of another "
                    f"network or optimizer: {name} is {there} there and {here} here; "
                    "take the settings it was saved with, or another --workdir"
                )

    def _newest(
        self, shapes: dict, steps: list[int], changed: bool = False
    ) -> tuple[int, dict, list[int]] | None:
        """(step, items, steps of the damaged checkpoints after it) of the newest one.

        It is the newest of the given checkpoints that can be read, or None if `steps`
        is empty.

        shapes: {name of an item: tree of `ShapeDtypeStruct`s}.
        steps: the steps of the checkpoints to try, in rising order.
        changed: see `Checkpoints.restore_state`.

        Raises `UserError` if all of them are damaged.
        """
        damaged: list[int] = []
        for step in reversed(steps):
            restored, why = self._restore(step, shapes, changed=changed)
            if restored is not None:
                return step, restored, damaged
            damaged.append(step)
            say(f"the checkpoint of step {step} is damaged ({why})")
        if not damaged:
            return None

        # Only a given checkpoint was tried.
        if len(damaged) < len(self.steps()):
            raise UserError(
                f"the checkpoint of step {damaged[0]} in {self.directory} is damaged; "
                "take another step, `last` is the newest whole one"
            )

        # All are damaged. To start from scratch could lose a run that can be repaired.
        numbers = ", ".join(map(str, reversed(damaged)))
        raise UserError(
            f"no whole checkpoint in {self.directory}: damaged are steps {numbers}; "
            "nothing was deleted; "
            "put a good copy there or choose another --workdir"
        )

    def _restore(
        self, step: int, shapes: dict, changed: bool
    ) -> tuple[dict | None, str]:
        """(items, "") of a checkpoint, or (None, the reason why it cannot be read)."""
        folder = self.directory / str(step)
        # One process reads all files once more, for their checksums.
        why = ""
        if hosts.is_first():
            why = checksums.damage(folder, shapes)
        why = hosts.from_first(why)
        if why:
            return None, why

        restored = {}
        try:
            with ocp.StandardCheckpointer() as reader:
                for name, item in shapes.items():
                    restored[name] = self._read(
                        reader, folder / name, shapes=item, changed=changed
                    )
        # The errors that Orbax raises for damaged files have no class in common.
        except Exception as error:
            # Out of memory, on the host or in XLA: the checkpoint may be undamaged.
            if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
                raise
            why = reason_of(error)

        # If one process cannot read it, no process may take it, or they would continue
        # from different steps.
        reasons = [reason for reason in hosts.from_all(why) if reason]
        why = next(iter(reasons), "")
        if why:
            return None, why
        return restored, ""

    def _read(
        self,
        reader: ocp.StandardCheckpointer,
        folder: pathlib.Path,
        shapes,
        changed: bool,
    ):
        """One item of a checkpoint, in the structure of `shapes`.

        changed: see `Checkpoints.restore_state`. Arrays with rows for epochs keep the
            number of rows that was saved.
        """
        metadata = reader.metadata(folder).item_metadata.tree
        same = refit.by_name(metadata).keys() == refit.by_name(shapes).keys()
        if same and not changed:
            return reader.restore(folder, self._where.restorable(shapes))

        # Orbax restores the structure that was saved; then convert it to ours.
        saved = refit.as_saved(wanted=shapes, saved=metadata)
        restored = reader.restore(folder, self._where.restorable(saved))
        return refit.restructured(restored, wanted=shapes)


def _expect_late_answers() -> None:
    """Silences the tracebacks that a failed restore or save leaves behind.

    After a failed restore Orbax closes its event loop while other reads are still
    running, and Python would print a traceback for each of them.
    """
    previous = sys.unraisablehook
    if getattr(previous, "expects_late_answers", False):
        return

    def hook(unraisable) -> None:
        # Only a coroutine has `cr_code`.
        code = getattr(unraisable.object, "cr_code", None)
        from_orbax = code is not None and "orbax" in code.co_filename
        if not from_orbax and str(unraisable.exc_value) != "Event loop is closed":
            previous(unraisable)

    hook.expects_late_answers = True  # type: ignore[attr-defined]
    sys.unraisablehook = hook
    logging.getLogger("asyncio").addFilter(
        lambda record: "never retrieved" not in record.getMessage()
    )
    # A failed save also raises its error, which becomes a line (`Checkpoints._room`).
    logging.getLogger("absl").addFilter(
        lambda record: not record.exc_info or "orbax" not in record.pathname
    )


def _by_name(items: dict, links: bool) -> dict[str, Any]:
    """The leaves of {item: tree} by their names, see `refit.by_name`."""
    leaves = {}
    for tree in items.values():
        leaves.update(refit.by_name(tree, links))
    return leaves


def _shape_of_part(vector, position: int, leaf) -> jax.ShapeDtypeStruct:
    """The shape of a leaf cut from a saved vector, with the vector's number type."""
    del position
    return jax.ShapeDtypeStruct(leaf.shape, vector.dtype)


def _kind(leaf, dtypes: bool) -> str:
    """The number type and the shape of a leaf, for an error."""
    if leaf is None:
        return "missing"
    kind = "an array"
    if dtypes:
        kind = leaf.dtype
    return f"{kind} {tuple(leaf.shape)}"


def reason_of(error: Exception) -> str:
    """The reason of an error from Orbax, in words for the user.

    It is what the system says about the disk if the error has it, or else the first
    line, unless that is the text of a Python object.
    """
    # Paths of any length come before it.
    for said in _OF_DISKS:
        if said in str(error):
            return said
    if isinstance(error, (UnicodeError, json.JSONDecodeError)):
        return "what describes it cannot be read"
    lines = str(error).strip().splitlines()
    if not lines or _PYTHON_OBJECT.search(lines[0]):
        return "its files cannot be read"
    return lines[0][:160]
