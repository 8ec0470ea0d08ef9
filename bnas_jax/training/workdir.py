"""A run's directory while the run writes it: its lock, config.json, run.json,
metrics.jsonl, TensorBoard events and log.txt.
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

# What locking says on file systems that cannot: FUSE, Lustre without flock, NFS without
# its lock service.
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


def write_json(path: pathlib.Path, value) -> None:
    """`write_whole` on the first process alone."""
    if hosts.is_first():
        write_whole(path, value)


def environment() -> dict[str, str]:
    """The versions and the hardware of this process, which a run notes beside its
    results.
    """
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

    extensions: the files of extensions that a new run notes, {"file", "sha256"} each.
    """

    def __init__(self, path: str | os.PathLike, *, extensions: Sequence[Mapping] = ()):
        super().__init__(path)
        self._extensions = [dict(extension) for extension in extensions]
        # The descriptor of the lock's file while this process has the lock.
        self._held: int | None = None
        self._changes: list[Difference] = []

    def open(
        self,
        run: Settings,
        facts: Facts,
        *,
        change: bool = False,
        entries: Mapping | None = None,
    ) -> None:
        """Locks the directory; writes config.json and run.json (facts about data,
        versions and hardware) into a new one.

        change: settings of a run that goes on may differ, see `changes.check`;
        `note_changes` writes them down.
        entries: what else a new run's run.json has: "init", the weights that it begins
        with, and "teacher", None for none. `UserError` where the directory has another
        run, or one that is under way, or cannot be written, and for other data.
        """
        # The other processes wait, and get the same error.
        hosts.on_first(lambda: self._open(run, facts, change, entries or {}))

    def check(self, run: Settings, facts: Facts, *, change: bool = False) -> Facts:
        """The facts of the directory's run, completed by those given; `facts` as given
        where there is no run yet.

        `UserError` for a directory of a run with other settings or other data. change:
        see `open`.
        """
        if self.exists():
            step = max(CheckpointFolder(self.checkpoints).steps(), default=0)
            # By way of the settings: a config of an older version lacks those that are
            # new since.
            before = settings.to_dict(settings.from_config(self.config()))
            now = settings.to_dict(run)
            self._changes = changes.check(
                now, before, self.path, change=change, step=step
            )

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
        facts = self.check(run, facts, change=change)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock()
            if not self.exists():
                self._begin(run, facts, entries)
            elif facts.known().keys() - self.facts().keys():
                # An imported network, of whose data nothing was known, is trained on.
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
        # The last of the two, as a directory with a config.json is taken for a run
        # (`exists`).
        self._write_config(settings.to_dict(run))

    def _write_config(self, config: Mapping) -> None:
        """Writes config.json on the first process alone.

        An infinite setting stays so, or the run would have another one.
        """
        if hosts.is_first():
            with whole(self / "config.json") as part:
                part.write_text(json.dumps(config, indent=1) + "\n")

    def _lock(self) -> None:
        """Locks the directory for this process until it ends, however it ends, or until
        `close`.

        The file is never removed: a process that waits for a file which is then removed
        would lock nothing.
        """
        if self._held is None:
            self._held = os.open(self / "lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.lockf(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
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

        # Who has it, for the error of the next one.
        os.truncate(self._held, 0)
        owner = f"process {os.getpid()} on {platform.node()}\n"
        os.pwrite(self._held, owner.encode(), 0)

    def _warn_of_no_locks(self, error: OSError) -> None:
        warning = (
            f"warning: the file system of {self.path} has no locks ({error.strerror}); "
            "nothing keeps a second run out of"
            " this work directory"
        )
        self.note(warning)
        print(f"bnas_jax: {warning}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """A line of log.txt, with clock (UTC), host and process."""
        clock = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        # A full disk must not end a run for the sake of its log.
        line = f"{clock} {platform.node()} {os.getpid()} {text}\n"
        with convenience("log.txt"):
            append(self / "log.txt", line)

    def say(self, text: str) -> None:
        """A line of log.txt that is also printed to stderr, by the first process alone."""
        if hosts.is_first():
            self.note(text)
            print(f"bnas_jax: {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Gives the lock up."""
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def note_changes(self, run: Settings, step: int) -> list[dict]:
        """Writes the settings that `open` found changed into config.json, as changed at
        `step`; returns their entries there.

        summary.json is removed: it has the results of the run before its change.
        """
        added = changes.records(self._changes, step)
        if added:
            config = {**settings.to_dict(run), "changed": [*self.changed(), *added]}
            self._write_config(config)
            (self / "summary.json").unlink(missing_ok=True)
        self._changes = []
        return added


def _check_data(now: Facts, then: Facts) -> None:
    """Raises `UserError` unless the data at config.dataset.path is still that with
    which the run began.
    """
    difference = facts_lib.difference(now, then)
    if difference:
        raise UserError(
            f"{difference} when the run began; restore that data (config.dataset.path "
            "may say where it is now), or choose"
            " another --workdir"
        )


class Log:
    """metrics.jsonl and TensorBoard, with a record for each epoch, and log.txt.

    The first process alone writes.

    Records behind `step`, from which a run goes on, are cut off; log.txt is not.
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

        `UserError`, and nothing of the record, where there is no room for it.
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
        if self._tensorboard is not None:
            self._tensorboard.close()


class TensorBoard:
    """Events for TensorBoard, written at once; without room for them the run goes on,
    with a warning.

    The writer of tensorboardX is not used: it writes in a thread, which ends on a full
    disk, and the run then waits forever.
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
        self._add(
            [{"step": first_step, "session_log": SessionLog(status=SessionLog.START)}]
        )

    def write(self, record: Mapping) -> None:
        """The numbers of a record as scalars at its step."""
        from tensorboardX.summary import scalar

        events = []
        for name, value in record.items():
            if isinstance(value, (int, float)) and name != "step":
                events.append({"step": record["step"], "summary": scalar(name, value)})
        self._add(events)

    def _add(self, events: list[dict]) -> None:
        from tensorboardX.proto.event_pb2 import Event

        # Without room from the beginning, or after an error.
        if self._file is None:
            return
        with convenience("TensorBoard events"):
            try:
                for event in events:
                    self._file.write(
                        Event(wall_time=time.time(), **event).SerializeToString()
                    )
                self._file.flush()
            except OSError:
                # Closing writes the rest of the buffer, which fails, too.
                with contextlib.suppress(OSError):
                    self.close()
                raise

    def close(self) -> None:
        """Ends the file."""
        file, self._file = self._file, None
        if file is not None:
            file.close()
