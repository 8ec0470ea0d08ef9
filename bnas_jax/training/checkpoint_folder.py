"""`CheckpointFolder`: a run's checkpoints as files and folders.

It lists their steps, finds the best one, and moves damaged checkpoints away.
"""

import json
import os
import pathlib
import shutil
import sys

from bnas_jax.core.errors import UserError

METRIC = "top1"
# The folder, in that of the checkpoints, for those that are about to be deleted.
DELETED = "deleted"


class CheckpointFolder:
    """The folders DIRECTORY/STEP of finished checkpoints, in Orbax's layout.

    No arrays are read here. Damaged checkpoints are moved to `checkpoints_damaged`,
    next to the directory. A checkpoint that is being replaced is kept in
    `checkpoints_replaced` until the new one is complete.
    """

    def __init__(self, directory: pathlib.Path):
        self.directory = directory

    def steps(self) -> list[int]:
        """The steps of all finished checkpoints, in rising order."""
        # A checkpoint that is still being written has another name.
        names = [path.name for path in self.directory.glob("*")]
        return sorted(int(name) for name in names if name.isdigit())

    def find(self, which: str) -> int:
        """The step of the checkpoint `which`: `last`, `best` or a step.

        Raises `UserError` if there is no such checkpoint.
        """
        steps = self.steps()  # in rising order
        if not steps:
            raise UserError(
                f"no checkpoint in {self.directory}; run train with "
                f"--workdir={self.directory.parent} first"
            )
        if which == "best":
            return self._best(steps)
        if which == "last":
            return steps[-1]
        # The number of a step.
        if not which.isdigit() or int(which) not in steps:
            have = ", ".join(map(str, steps))
            raise UserError(
                f"no checkpoint of step {which} in {self.directory}; write best, last "
                f"or one of {have}"
            )
        return int(which)

    def _best(self, steps: list[int]) -> int:
        """The step with the highest accuracy, the last of equals."""
        scored = []
        for step in steps:
            score = self._score(step)
            if score is not None:
                scored.append((score, step))
        if not scored:
            raise UserError(
                f"no checkpoint in {self.directory} has an accuracy yet; write last "
                "instead of best"
            )
        # Tuples compare by the accuracy, then by the step.
        _, best = max(scored)
        return best

    def _score(self, step: int) -> float | None:
        """The accuracy of a checkpoint; None if it has none or it cannot be read."""
        try:
            metrics = json.loads(self._score_file(step).read_text())
            return float(metrics[METRIC])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def _score_file(self, step: int) -> pathlib.Path:
        return self.directory / str(step) / "metrics" / "metrics"

    @property
    def _replaced(self) -> pathlib.Path:
        """The folder for checkpoints whose replacement is still being written."""
        return self.directory.with_name("checkpoints_replaced")

    def _put_by(self, step: int) -> None:
        """Moves a checkpoint out of the way of the one that will replace it."""
        self._replaced.mkdir(exist_ok=True)
        current = self.directory / str(step)
        os.rename(current, self._replaced / str(step))

    def _put_back(self) -> None:
        """Ends every replacement of a checkpoint.

        The old checkpoint is deleted if the new one is complete, else put back.
        """
        if not self._replaced.is_dir():
            return
        for path in self._replaced.iterdir():
            replacement = self.directory / path.name
            # The old one is deleted only when the new one is complete, so that a crash
            # at any point leaves one of the two.
            if replacement.exists():
                shutil.rmtree(path)
            else:
                os.rename(path, replacement)
        self._replaced.rmdir()

    def _delete(self) -> None:
        """Deletes the checkpoints that Orbax has moved to the folder `DELETED`."""
        folder = self.directory / DELETED
        if folder.is_dir():
            shutil.rmtree(folder)

    def _set_aside(self, steps: list[int], kind: str = "damaged") -> None:
        """Moves checkpoints into `checkpoints_damaged`; deletes nothing."""
        for step in steps:
            checkpoint = self.directory / str(step)
            target = self._move_aside(checkpoint, name=str(step))
            say(f"moved the {kind} checkpoint of step {step} to {target}")

    def _set_scores_aside(self) -> None:
        """Moves away files of accuracies that cannot be read, where Orbax would fail.

        The checkpoints themselves stay.
        """
        for step in self.steps():
            if self._score_file(step).is_file() and self._score(step) is None:
                target = self._move_aside(self._score_file(step), f"{step}.metrics")
                say(
                    f"the accuracy noted with the checkpoint of step {step} cannot be "
                    f"read; moved it to {target}"
                )

    def _move_aside(self, path: pathlib.Path, name: str) -> pathlib.Path:
        """Moves a file or folder into `checkpoints_damaged`; returns its new path.

        Its name there is `name`, followed by a number if that is taken.
        """
        folder = self.directory.with_name("checkpoints_damaged")
        folder.mkdir(exist_ok=True)
        target = folder / name
        # The same step may have been damaged before.
        number = 0
        while target.exists():
            number += 1
            target = folder / f"{name}.{number}"
        os.rename(path, target)
        return target


def say(text: str) -> None:
    """A line on stderr."""
    print(f"bnas_jax: {text}", file=sys.stderr, flush=True)
