"""Saving a run's whole state by Orbax.

It is saved in the background. The last few and the best few checkpoints are kept.
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
from bnas_jax.training import refit
from bnas_jax.training.checkpoint_folder import METRIC
from bnas_jax.training.checkpoint_reader import CheckpointReader, reason_of, split


def _options(keep: CheckpointSettings) -> ocp.CheckpointManagerOptions:
    """Which checkpoints Orbax keeps: the last few, and the best few by accuracy."""
    metric = lambda metrics: metrics[METRIC]
    kept = [policies.LatestN(n=keep.keep_last)]
    if keep.keep_best:
        # Checkpoints within an epoch have no accuracy. They are kept only as long as
        # they are among the last ones.
        best = policies.BestN(
            get_metric_fn=metric,
            n=keep.keep_best,
            keep_checkpoints_without_metrics=False,
        )
        kept.append(best)
    return ocp.CheckpointManagerOptions(
        best_fn=metric,
        preservation_policy=policies.AnyPreservationPolicy(kept),
        create=True,
    )


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        """Never.

        Orbax would ask JAX's preemption service by the number of the step, and mix up
        the questions that `Stops` asks it.
        """
        return False


class Checkpoints(CheckpointReader):
    """The checkpoints of a run that goes on.

    They are read at its start, and saved from then on.
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

        # What a crash has left behind is mended before Orbax reads the directory.
        hosts.on_first(self._put_back)
        hosts.on_first(self._set_scores_aside)
        with self._room():
            self._manager = _Manager(
                directory, options=_options(settings), item_names=("variables", "rest")
            )

    def save(self, step: int, state, top1: float | None = None) -> None:
        """Starts to save, after the save before it has ended.

        A checkpoint of the same step is replaced.

        top1: the accuracy in % by which the best checkpoints are kept, None between two
            epochs; NaN is never the best.

        Raises `UserError` where the save before it failed.
        """
        manager = self._manager
        self.finish()

        # Orbax refuses to save a step twice. To delete the old checkpoint first would
        # leave nothing after a crash, so that it is moved.
        if step in manager.all_steps():
            hosts.on_first(lambda: self._make_way(step))
            manager.reload()

        # What is saved: a copy, as the next step reuses the state's buffers.
        variables, rest = split(self._where.saveable(state))
        items = ocp.args.Composite(
            variables=ocp.args.StandardSave(variables), rest=ocp.args.StandardSave(rest)
        )

        # The accuracy beside it. NaN has no place in an order.
        metrics = None
        if top1 is not None:
            if not math.isfinite(top1):
                top1 = -math.inf
            metrics = {METRIC: top1}

        # One process saves in a thread.
        def write() -> None:
            manager.save(step, args=items, metrics=metrics)
            manager.wait_until_finished()

        if hosts.count() == 1:
            self._saving = self._worker.submit(write)
            return

        # Orbax makes several processes wait for each other, by a program on their
        # devices. Sent off by a thread, it would get between the programs of the steps,
        # at another place on each process, and all would hang.
        with self._room():
            manager.save(step, args=items, metrics=metrics)

    def finish(self) -> None:
        """Waits until what is being saved is on disk.

        Raises `UserError` where saving failed.
        """
        saving, self._saving = self._saving, None
        with self._room():
            if saving:
                saving.result()
            else:
                self._manager.wait_until_finished()
            # The new checkpoint is complete, so that the one that it replaces can go.
            if hosts.is_first():
                self._put_back()

    def _make_way(self, step: int) -> None:
        with self._room():
            self._put_by(step)

    def last_before(self, step: int) -> int | None:
        """The newest checkpoint before a step, or None, for a run that has diverged.

        Checkpoints from that step on are set aside.
        """
        # A save that fails now must not hide the divergence.
        with contextlib.suppress(UserError):
            self.finish()
        diverged = [saved for saved in self.steps() if saved >= step]
        hosts.on_first(lambda: self._set_aside(diverged, "diverged"))
        return max(self.steps(), default=None)

    def close(self) -> None:
        """Waits for what is being saved, and ends Orbax's threads."""
        try:
            self.finish()
        finally:
            self._worker.shutdown(wait=False)
        with self._room():
            self._manager.close()

    @contextlib.contextmanager
    def _room(self):
        """Turns errors of saving into a `UserError`.

        They may come from a save that was begun before. What was saved before that
        stays.
        """
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"cannot save a checkpoint in {self.directory} ({reason_of(error)}); "
                "make room there or mend it, the same command goes on from step "
                f"{max(self.steps(), default=0)}"
            ) from error

    def restore_state(self, shapes, changed: bool = False) -> Any | None:
        """The newest whole state, None where there is no checkpoint.

        shapes: a state of `ShapeDtypeStruct`s.
        changed: whether the saved state may be of other precision, number of epochs, or
            clipping; it is then brought into the form of `shapes`.

        Raises `UserError` for a state of another network or arithmetic, and where there
        is no room for the checkpoints to come.
        """
        self._check_disk(shapes)
        variables, rest = split(shapes)
        items = {"variables": variables, "rest": rest}
        # The newest checkpoint, if there is one, must be of this run's settings. Older
        # ones are of the same settings.
        steps = self._steps_of_first()
        for step in steps[-1:]:
            self._check_same(step, items, dtypes=not changed, changed=changed)

        # The newest that is not damaged.
        restored = self._newest(items, steps, changed=changed)
        if restored is None:
            return None
        _, saved, damaged = restored

        # As there is a good one, the run goes on. New checkpoints will need the steps
        # of the damaged ones.
        hosts.on_first(lambda: self._set_aside(damaged))
        if damaged:
            self._manager.reload()

        # The state of its two items.
        state = type(shapes)(**saved["variables"], **saved["rest"])
        state = self._where.restored(state)
        if changed:
            return refit.with_epochs(state, shapes)
        return state

    def _check_disk(self, shapes) -> None:
        """Raises `UserError` where the run's checkpoints will not fit on the disk."""
        leaves = jax.tree.leaves(shapes)
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)  # bytes

        # There will be all that are kept, and one that is being written.
        kept = self._keep.keep_last + self._keep.keep_best
        more = kept + 1 - len(self.steps())
        free = shutil.disk_usage(self.directory).free  # bytes
        if size * more > free:
            raise UserError(
                f"no room for checkpoints in {self.directory}: {more} of "
                f"{size / 1e6:.0f} MB are to come, {free / 1e6:.0f} MB are free; make "
                "room or lower config.checkpoint.keep_last"
            )
