"""A run's directory while the run writes it.

`WorkDir` writes config.json, run.json and log.txt, and holds the lock. `Log` writes
metrics.jsonl and, by `TensorBoard`, events.
"""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import platform
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from bnas_jax import __version__, settings
from bnas_jax.core.errors import UserError
from bnas_jax.data import facts as facts_lib
from bnas_jax.data.facts import Facts
from bnas_jax.runtime import hosts
from bnas_jax.settings import Difference, Settings
from bnas_jax.training import changes
from bnas_jax.training.checkpoint_folder import CheckpointFolder
from bnas_jax.workdir.directory import FORMAT, RunDirectory
from bnas_jax.workdir.files import (
    append,
    convenience,
    json_text,
    room,
    whole,
    write_whole,
)

# The errors of locking on file systems without locks: FUSE, Lustre without flock, NFS
# without its lock service.
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
# Seconds after which a host sees what another one has written: NFS asks again for what
# was not there after a minute at most.
_SEEN = 90


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
            self._check_shared(facts)

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

    def _check_shared(self, facts: Facts) -> None:
        """Raises `UserError` unless all processes have this directory, and one data.

        Without the directory a run would begin, but the processes could not go on from
        one checkpoint.
        """
        # The first process writes a word that the others read.
        word = hosts.from_first(uuid.uuid4().hex)
        path = self / "shared"
        hosts.on_first(lambda: write_whole(path, word))
        problem = ""
        if not _comes_to_hold(path, word):
            problem = (
                f"{self.path} on {platform.node()} is not the directory of that name "
                "on the first process; choose a --workdir on a file system that all "
                "hosts share"
            )

        # The data, which may be copies on the disk of each host.
        first = facts_lib.from_dict(
            json.loads(hosts.from_first(json_text(facts.known())))
        )
        if facts_lib.difference(facts, first):
            problem = (
                f"the data on {platform.node()} is not that of the first process; copy "
                "it anew to where config.dataset.path is"
            )
        # By now every process has read the word.
        hosts.on_first(lambda: path.unlink(missing_ok=True))
        hosts.end_together(problem)

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


def _comes_to_hold(path: pathlib.Path, value: str) -> bool:
    """Whether a file of JSON holds a value, or does so within `_SEEN` seconds."""
    last = time.monotonic() + _SEEN
    while True:
        with contextlib.suppress(OSError, ValueError):
            if json.loads(path.read_text()) == value:
                return True
        if time.monotonic() > last:
            return False
        time.sleep(0.2)


def _check_data(now: Facts, then: Facts) -> None:
    """Raises `UserError` unless the data is still that with which the run began."""
    difference = facts_lib.difference(now, then)
    if difference:
        raise UserError(
            f"{difference} when the run began; restore that data (config.dataset.path "
            "may say where it is now), or choose another --workdir"
        )


class Log:
    """metrics.jsonl and TensorBoard, with a record for each epoch, and log.txt.

    The first process alone writes.

    step: from which the run goes on; later records are cut off, log.txt is not.
    """

    def __init__(self, workdir: WorkDir, step: int):
        self._workdir = workdir
        self._tensorboard = None
        if not hosts.is_first():
            return

        # Epochs that a crash has undone are run again, and would have two records.
        self._path = workdir / "metrics.jsonl"
        lines = []
        for record in workdir.read_metrics():
            if record["step"] <= step:
                lines.append(json_text(record) + "\n")
        with whole(self._path) as part:
            part.write_text("".join(lines))
        self._tensorboard = TensorBoard(workdir / "tensorboard", step + 1)

    def write(self, record: Mapping) -> None:
        """Adds an epoch's record.

        Raises `UserError` where there is no room for it; nothing of it is then written.
        """
        if self._tensorboard is None:
            return
        with room(self._path):
            append(self._path, json_text(record) + "\n")
        self._tensorboard.write(record)

    def note(self, text: str) -> None:
        """A line of log.txt, see `WorkDir.note`."""
        if self._tensorboard is not None:
            self._workdir.note(text)

    def close(self) -> None:
        """Ends the file of TensorBoard."""
        if self._tensorboard is not None:
            self._tensorboard.close()


class TensorBoard:
    """Events for TensorBoard, written at once.

    Without room for them the run goes on, with a warning. The writer of tensorboardX is
    not used: it writes in a thread, which ends on a full disk, and the run then waits
    forever.
    """

    def __init__(self, folder: pathlib.Path, first_step: int):
        from tensorboardX.proto.event_pb2 import SessionLog
        from tensorboardX.record_writer import RecordWriter

        self._file: Any = None
        with convenience("TensorBoard events"):
            folder.mkdir(exist_ok=True)
            name = f"events.out.tfevents.{time.time():.0f}.{platform.node()}"
            self._file = RecordWriter(str(folder / name))
        # The first event of every file.
        self._add([{"file_version": "brain.Event:2"}])
        # By this event TensorBoard drops what an earlier process wrote from that step
        # on.
        start = SessionLog(status=SessionLog.START)
        self._add([{"step": first_step, "session_log": start}])

    def write(self, record: Mapping) -> None:
        """The numbers of a record as scalars at its step."""
        from tensorboardX.summary import scalar

        events = []
        for name, value in record.items():
            if isinstance(value, (int, float)) and name != "step":
                events.append({"step": record["step"], "summary": scalar(name, value)})
        self._add(events)

    def _add(self, events: list[dict]) -> None:
        """Writes events.

        events: the fields of each, without its clock.
        """
        from tensorboardX.proto.event_pb2 import Event

        # There was no room for the file, or an error has ended it.
        if self._file is None:
            return
        with convenience("TensorBoard events"):
            try:
                for fields in events:
                    event = Event(wall_time=time.time(), **fields)
                    self._file.write(event.SerializeToString())
                self._file.flush()
            except OSError:
                # Closing the file writes the rest of its buffer, which fails, too.
                with contextlib.suppress(OSError):
                    self.close()
                raise

    def close(self) -> None:
        """Ends the file."""
        file, self._file = self._file, None
        if file is not None:
            file.close()
