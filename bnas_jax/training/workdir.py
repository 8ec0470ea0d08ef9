"""`WorkDir`: the work directory of a run in progress.

It writes config.json, run.json and log.txt, and holds the lock.
"""

import errno
import fcntl
import os
import pathlib
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from bnas_jax import __version__, settings
from bnas_jax.core.errors import UserError
from bnas_jax.data import facts as facts_lib
from bnas_jax.data.facts import Facts
from bnas_jax.runtime import hosts
from bnas_jax.settings import Difference, Settings
from bnas_jax.training import changes, shared_directory
from bnas_jax.training.checkpoint_folder import CheckpointFolder
from bnas_jax.workdir.directory import FORMAT, RunDirectory
from bnas_jax.workdir.files import (
    append,
    convenience,
    remove_parts,
    write_whole,
)

# The errors of locking on file systems without locks: FUSE, Lustre without flock, NFS
# without its lock service.
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
# The files that only the process with the lock writes.
_OF_A_RUN = (
    "run.json",
    "config.json",
    "metrics.jsonl",
    "alphas.npz",
    "candidates.json",
    "genotype.json",
    "cell.svg",
    "summary.json",
    "shared",
)


def write_json(path: pathlib.Path, value) -> None:
    """`write_whole`, only on the first process."""
    if hosts.is_first():
        write_whole(path, value)


def environment() -> dict[str, str]:
    """The versions and the hardware of this process, for run.json."""
    # All devices of a run are of one kind.
    device = jax.devices()[0]
    return {
        "bnas_jax": __version__,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "device": f"{jax.device_count()} x {device.device_kind}",
        "host": platform.node(),
    }


class WorkDir(RunDirectory):
    """The work directory of a run.

    `open` makes it, or resumes the run in it if the settings are the same.

    path: the directory.
    extensions: the extensions of a new run, {"file", "sha256"} each, for run.json.
    """

    def __init__(self, path: str | os.PathLike, *, extensions: Sequence[Mapping] = ()):
        super().__init__(path)
        self._extensions = [dict(extension) for extension in extensions]
        # The descriptor of the lock file while this process holds the lock.
        self._held: int | None = None
        # The settings that `check` found changed.
        self._changes: list[Difference] = []

    def open(
        self,
        run: Settings,
        facts: Facts,
        *,
        change: bool = False,
        entries: Mapping | None = None,
    ) -> None:
        """Locks the directory; for a new run, writes config.json and run.json.

        facts: the facts about the data, for run.json.
        change: whether the settings of a resumed run may differ, see `changes.check`.
            `note_changes` writes the changes.
        entries: further entries of a new run's run.json: "init" and "teacher", which
            may be None.

        Raises `UserError` if the directory holds another run or one that is in
        progress, if it cannot be written, and for other data.
        """
        # The other processes wait, and raise the same error.
        hosts.on_first(lambda: self._open(run, facts, change, entries or {}))
        if hosts.count() > 1:
            shared_directory.check(self.path, facts)

    def check(self, run: Settings, facts: Facts, *, change: bool = False) -> Facts:
        """The facts in run.json, completed by `facts`; for a new run, `facts`.

        change: see `open`.

        Raises `UserError` if the directory holds a run with other settings or other
        data.
        """
        if self.exists():
            # Orbax would notice it only after everything is compiled.
            if self.checkpoints.exists() and not self.checkpoints.is_dir():
                raise UserError(
                    f"{self.checkpoints} is a file where the folder of checkpoints "
                    "belongs; move it away, or choose another --workdir"
                )

            # The settings. Read the config into settings first: that of an older
            # version lacks new settings.
            step = max(CheckpointFolder(self.checkpoints).steps(), default=0)
            before = settings.to_dict(settings.from_config(self.config()))
            now = settings.to_dict(run)
            self._changes = changes.check(
                now, before, self.path, change=change, step=step
            )

            # The data.
            then = self.facts()
            _check_data(facts, facts_lib.from_dict(then))
            return facts_lib.from_dict({**facts.known(), **then})

        # config.json was deleted, or the directory was copied in part.
        if self.checkpoints.exists():
            raise UserError(
                f"{self.path} holds checkpoints but no config.json to tell whose; "
                "choose another --workdir"
            )
        # Orbax would find out at the first checkpoint.
        try:
            str(self.path).encode()
        except UnicodeEncodeError:
            raise UserError(
                f"checkpoints cannot be saved in {self.path}, a name that is no UTF-8; "
                "choose another --workdir"
            ) from None
        return facts

    def _open(
        self, run: Settings, facts: Facts, change: bool, entries: Mapping
    ) -> None:
        """`open` on the first process."""
        facts = self.check(run, facts, change=change)
        # From here on files are written.
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock()
            remove_parts(self.path, _OF_A_RUN)
            if not self.exists():
                self._begin(run, facts, entries)
            elif facts.known().keys() - self.facts().keys():
                # An imported network is trained further: add the facts about its data.
                write_json(self / "run.json", {**self.facts(), **facts.known()})
        except OSError as error:
            raise UserError(
                f"cannot write to the work directory {self.path} ({error.strerror}); "
                "choose another"
            ) from None

    def _begin(self, run: Settings, facts: Facts, entries: Mapping) -> None:
        """Writes the files of a new run."""
        record: dict[str, Any] = {
            "format": FORMAT,
            **facts.known(),
            "environment": environment(),
        }
        for name, value in entries.items():
            if value:
                record[name] = dict(value)
        if self._extensions:
            record["extensions"] = self._extensions
        write_json(self / "run.json", record)
        # config.json is written last: a directory that has one is a run (`exists`).
        write_json(self / "config.json", settings.to_dict(run))

    def _lock(self) -> None:
        """Locks the directory until `close`, or until the process ends.

        The lock file is never removed: another process may wait for its lock, and would
        then lock a file that no longer exists.
        """
        if self._held is None:
            self._held = os.open(self / "lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.lockf(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            # Another process holds the lock. Its name is in the file.
            owner = os.pread(self._held, 200, 0).decode(errors="replace").strip()
            if not owner:
                owner = "another process"
            self.close()
            raise UserError(
                f"{self.path} is in use by {owner}; wait for it to end, or choose "
                "another --workdir"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            self._warn_of_no_locks(error)

        # Write the name of this process, for the error of other processes.
        os.truncate(self._held, 0)
        owner = f"process {os.getpid()} on {platform.node()}\n"
        os.pwrite(self._held, owner.encode(), 0)

    def _warn_of_no_locks(self, error: OSError) -> None:
        """Warns of a file system without locks, in log.txt and on stderr."""
        warning = (
            f"warning: the file system of {self.path} has no locks ({error.strerror}); "
            "nothing keeps a second run out of this work directory"
        )
        self.note(warning)
        print(f"bnas_jax: {warning}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Writes a line to log.txt, with time (UTC), host and process."""
        clock = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = f"{clock} {platform.node()} {os.getpid()} {text}\n"
        # A full disk must not end a run for the sake of its log.
        with convenience("log.txt"):
            append(self / "log.txt", line)

    def say(self, text: str) -> None:
        """Writes a line to log.txt and to stderr, only on the first process."""
        if hosts.is_first():
            self.note(text)
            print(f"bnas_jax: {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Releases the lock."""
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def note_changes(self, run: Settings, step: int) -> list[dict]:
        """Writes the changed settings, found by `open`, into config.json.

        Returns their entries. summary.json is removed, because it has the results
        before the change.

        step: the step at which the settings change.
        """
        added = changes.records(self._changes, step)
        if added:
            # First, because a crash between the two must not leave old results beside
            # new settings.
            if hosts.is_first():
                (self / "summary.json").unlink(missing_ok=True)
            config = {**settings.to_dict(run), "changed": [*self.changed(), *added]}
            write_json(self / "config.json", config)
        self._changes = []
        return added


def _check_data(now: Facts, then: Facts) -> None:
    """Raises `UserError` unless the data is the same as at the first start."""
    difference = facts_lib.difference(now, then)
    if difference:
        raise UserError(
            f"{difference} when the run began; restore that data (config.dataset.path "
            "may say where it is now), or choose another --workdir"
        )
