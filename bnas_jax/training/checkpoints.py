"""`Checkpoints`: saves the whole state of a run by Orbax, in the background.

The last few and the best few checkpoints are kept.
"""

import concurrent.futures
import contextlib
import math
import pathlib
import shutil
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from bnas_jax.core.errors import UserError
from bnas_jax.runtime import devices, hosts
from bnas_jax.runtime.devices import Devices
from bnas_jax.settings import CheckpointSettings
from bnas_jax.training import checksums, refit
from bnas_jax.training.checkpoint_folder import DELETED, METRIC
from bnas_jax.training.checkpoint_reader import (
    ITEMS,
    CheckpointReader,
    reason_of,
    split,
)
from bnas_jax.workdir.files import remove_parts


def _options(keep: CheckpointSettings) -> ocp.CheckpointManagerOptions:
    """Which checkpoints Orbax keeps: the last few, and the best few by accuracy."""
    metric = lambda metrics: metrics[METRIC]
    kept = [policies.LatestN(n=keep.keep_last)]
    if keep.keep_best:
        # Checkpoints within an epoch have no accuracy, and are kept only while they are
        # among the last ones.
        best = policies.BestN(
            get_metric_fn=metric,
            n=keep.keep_best,
            keep_checkpoints_without_metrics=False,
        )
        kept.append(best)
    return ocp.CheckpointManagerOptions(
        best_fn=metric,
        preservation_policy=policies.AnyPreservationPolicy(kept),
        # Moved at once and deleted afterwards (`_delete`): a crash in the midst of a
        # deletion would leave a part of a checkpoint under its name.
        todelete_subdir=DELETED,
        create=True,
    )


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        """False.

        Orbax would ask JAX's preemption service, and interfere with the questions that
        `Stops` asks it.
        """
        return False


class Checkpoints(CheckpointReader):
    """The checkpoints of a run in progress.

    The run restores the newest one at its start, and saves further ones.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        settings: CheckpointSettings,
        where: Devices = devices.ONE,
    ):
        super().__init__(directory, where)
        self._keep = settings
        # One thread saves while the steps go on.
        self._worker = concurrent.futures.ThreadPoolExecutor(
            1, thread_name_prefix="save"
        )
        self._saving: concurrent.futures.Future | None = None
        # A step that several processes have saved, until its checksums are written.
        self._unchecked: int | None = None

        # Repair what a crash has left, before Orbax reads the directory.
        hosts.on_first(self._put_back)
        hosts.on_first(self._set_scores_aside)
        with self._room():
            hosts.on_first(self._delete)
            self._manager = _Manager(
                directory, options=_options(settings), item_names=ITEMS
            )

    def save(self, step: int, state, top1: float | None = None) -> None:
        """Starts to save a state, once the previous save has finished.

        A checkpoint of the same step is replaced.

        top1: the accuracy in %, by which the best checkpoints are kept; None within an
            epoch. NaN is never the best.

        Raises `UserError` if the previous save failed.
        """
        manager = self._manager
        self.finish()

        # Orbax refuses to save a step twice. The old checkpoint is moved, not deleted,
        # so that a crash does not lose it.
        if step in manager.all_steps():
            hosts.on_first(lambda: self._make_way(step))
            manager.reload()

        # Save a copy, because the next step reuses the state's buffers.
        variables, rest = split(self._where.saveable(state))
        items = ocp.args.Composite(
            variables=ocp.args.StandardSave(variables), rest=ocp.args.StandardSave(rest)
        )

        # The accuracy. NaN cannot be ordered.
        metrics = None
        if top1 is not None:
            if not math.isfinite(top1):
                top1 = -math.inf
            metrics = {METRIC: top1}

        # A single process saves in a thread.
        def write() -> None:
            manager.save(step, args=items, metrics=metrics)
            manager.wait_until_finished()
            checksums.write(self.directory / str(step), ITEMS)
            self._delete()

        if hosts.count() == 1:
            self._saving = self._worker.submit(write)
            return

        # Several processes wait for each other by a program that Orbax runs on their
        # devices. If a thread dispatched it, it would come between the steps at another
        # place on each process, and all would hang.
        with self._room():
            manager.save(step, args=items, metrics=metrics)
        self._unchecked = step

    def finish(self) -> None:
        """Waits until the current save is on disk.

        Raises `UserError` if saving failed.
        """
        saving, self._saving = self._saving, None
        with self._room():
            if saving:
                saving.result()
            else:
                self._manager.wait_until_finished()
            # The new checkpoint is complete: delete the one that it replaces.
            if hosts.is_first():
                self._put_back()
                if self._unchecked is not None:
                    checksums.write(self.directory / str(self._unchecked), ITEMS)
                self._delete()
            self._unchecked = None

    def _make_way(self, step: int) -> None:
        with self._room():
            self._put_by(step)

    def _complete(self, step: int) -> None:
        """Writes the checksums of a checkpoint if a crash came before them."""
        folder = self.directory / str(step)
        with self._room():
            remove_parts(folder, [checksums.NAME])
            if not (folder / checksums.NAME).exists():
                checksums.write(folder, ITEMS)

    def last_before(self, step: int) -> int | None:
        """The newest checkpoint before the step where a run diverged, or None.

        Checkpoints from that step on are moved to `checkpoints_damaged`.
        """
        # A save that fails now must not hide the divergence.
        with contextlib.suppress(UserError):
            self.finish()
        diverged = [saved for saved in self.steps() if saved >= step]
        hosts.on_first(lambda: self._set_aside(diverged, "diverged"))
        return max(self.steps(), default=None)

    def close(self) -> None:
        """Waits for the current save, and ends Orbax's threads."""
        try:
            self.finish()
        finally:
            self._worker.shutdown(wait=False)
        with self._room():
            self._manager.close()

    @contextlib.contextmanager
    def _room(self):
        """Turns errors of saving into a `UserError`.

        They may come from a save that was started earlier. Older checkpoints are not
        affected.
        """
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"cannot save a checkpoint in {self.directory} ({reason_of(error)}); "
                "make room there or repair it, the same command continues from step "
                f"{max(self.steps(), default=0)}"
            ) from error

    def restore_state(self, shapes, changed: bool = False) -> Any | None:
        """The newest undamaged state; None if there is no checkpoint.

        shapes: a state of `ShapeDtypeStruct`s.
        changed: whether the saved state may have another precision, number of epochs or
            clipping; it is then converted to the form of `shapes`.

        Raises `UserError` for a state of another network or arithmetic, and if the disk
        has no room for further checkpoints.
        """
        self._check_disk(shapes)
        variables, rest = split(shapes)
        items = {"variables": variables, "rest": rest}
        # The newest checkpoint, if there is one, must fit this run's settings. Older
        # ones have the settings of the newest.
        steps = self._steps_of_first()
        for step in steps[-1:]:
            self._check_same(step, items, dtypes=not changed, changed=changed)

        # The newest that is not damaged.
        restored = self._newest(items, steps, changed=changed)
        if restored is None:
            return None
        step, saved, damaged = restored
        hosts.on_first(lambda: self._complete(step))

        # Move the damaged ones away: the run will save new checkpoints of these steps.
        hosts.on_first(lambda: self._set_aside(damaged))
        if damaged:
            self._manager.reload()

        # Put the state together from its two items.
        state = type(shapes)(**saved["variables"], **saved["rest"])
        state = self._where.restored(state)
        if changed:
            return refit.with_epochs(state, shapes)
        return state

    def _check_disk(self, shapes) -> None:
        """Raises `UserError` if the run's checkpoints will not fit on the disk."""
        leaves = jax.tree.leaves(shapes)
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)  # bytes

        # The disk has to hold all checkpoints that are kept, and one being written.
        kept = self._keep.keep_last + self._keep.keep_best
        more = kept + 1 - len(self.steps())
        free = shutil.disk_usage(self.directory).free  # bytes
        if size * more > free:
            raise UserError(
                f"no room for checkpoints in {self.directory}: {more} of "
                f"{size / 1e6:.0f} MB are to come, {free / 1e6:.0f} MB are free; make "
                "room or lower config.checkpoint.keep_last"
            )
