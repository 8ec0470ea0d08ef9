"""A run's directory while the run writes it.

`WorkDir` writes config.json, run.json and log.txt, and holds the lock.
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
    write_whole,
)

# The errors of locking on file systems without locks: FUSE, Lustre without flock, NFS
# without its lock service.
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


def write_json(path: pathlib.Path, value) -> None:
    """`write_whole` on the first process alone."""
    if hosts.is_first():
        write_whole(path, value)


def environment() -> dict[str, str]:
    """The versions and the hardware of this process, as a run notes them."""
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
    """The directory of one run.

    `open` makes it or, for the same settings, goes on in it.

    path: the directory.
    extensions: the files of extensions that a new run notes, {"file", "sha256"} each.
    """

    def __init__(self, path: str | os.PathLike, *, extensions: Sequence[Mapping] = ()):
        super().__init__(path)
        self._extensions = [dict(extension) for extension in extensions]
        # The descriptor of the lock's file while this process has the lock.
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
        """Locks the directory, and writes config.json and run.json into a new one.

        facts: about the data; run.json has them, and versions and hardware.
        change: settings of a run that goes on may differ, see `changes.check`;
            `note_changes` writes them down.
        entries: what else a new run's run.json has: "init", the weights that it begins
            with, and "teacher", None for none.

        Raises `UserError` where the directory has another run, or one that is under
        way, or cannot be written, and for other data.
        """
        # The other processes wait, and get the same error.
        hosts.on_first(lambda: self._open(run, facts, change, entries or {}))
        if hosts.count() > 1:
            shared_directory.check(self.path, facts)

    def check(self, run: Settings, facts: Facts, *, change: bool = False) -> Facts:
        """The facts of the directory's run, completed by `facts`.

        Where there is no run yet, they are `facts`.

        change: see `open`.

        Raises `UserError` for a directory of a run with other settings or other data.
        """
        if self.exists():
            # Orbax would find out after everything is compiled.
            if self.checkpoints.exists() and not self.checkpoints.is_dir():
                raise UserError(
                    f"{self.checkpoints} is a file where the folder of checkpoints "
                    "belongs; move it away, or choose another --workdir"
                )

            # The settings. The config is read into settings first: a config of an older
            # version lacks those that are new since.
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

        # Someone has deleted config.json, or begun to copy the directory.
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
            if not self.exists():
                self._begin(run, facts, entries)
            elif facts.known().keys() - self.facts().keys():
                # An imported network is trained on, and nothing was known of its data.
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
        # config.json is the last of the two: a directory that has one is taken for a
        # run (`exists`).
        write_json(self / "config.json", settings.to_dict(run))

    def _lock(self) -> None:
        """Locks the directory for this process until `close`, or until it ends.

        The file is never removed: a process that waits for a file which is then removed
        would lock nothing.
        """
        if self._held is None:
            self._held = os.open(self / "lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.lockf(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            # Another process has the lock, and has written its name into the file.
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

        # The name of this process, for the error of the next one.
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
        """A line of log.txt, with clock (UTC), host and process."""
        clock = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = f"{clock} {platform.node()} {os.getpid()} {text}\n"
        # A full disk must not end a run because of its log.
        with convenience("log.txt"):
            append(self / "log.txt", line)

    def say(self, text: str) -> None:
        """A line of log.txt and of stderr, by the first process alone."""
        if hosts.is_first():
            self.note(text)
            print(f"bnas_jax: {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Gives the lock up."""
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def note_changes(self, run: Settings, step: int) -> list[dict]:
        """Writes the settings that `open` found changed into config.json.

        Returns their entries there. summary.json is removed: it has the results of the
        run before its change.

        step: at which the settings change.
        """
        added = changes.records(self._changes, step)
        if added:
            config = {**settings.to_dict(run), "changed": [*self.changed(), *added]}
            write_json(self / "config.json", config)
            (self / "summary.json").unlink(missing_ok=True)
        self._changes = []
        return added


def _check_data(now: Facts, then: Facts) -> None:
    """Raises `UserError` unless the data is still that with which the run began."""
    difference = facts_lib.difference(now, then)
    if difference:
        raise UserError(
            f"{difference} when the run began; restore that data (config.dataset.path "
            "may say where it is now), or choose another --workdir"
        )
