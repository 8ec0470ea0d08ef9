"""A run's directory while the run writes it: its lock, config.json and run.json, metrics.jsonl, TensorBoard events, log.txt."""

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
from bnas_jax.training.checkpoints import Checkpoints
from bnas_jax.workdir.directory import FORMAT, RunDirectory
from bnas_jax.workdir.files import append, convenience, room, whole, write_whole

# What locking says on file systems that cannot: FUSE, Lustre without flock, NFS without its lock service.
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


def write_json(path: pathlib.Path, value) -> None:
    """`write_whole` on the first process alone."""
    if hosts.is_first():
        write_whole(path, value)


def environment() -> dict[str, str]:
    """Versions and hardware that a figure belongs to."""
    device = jax.devices()[0]
    return {
        "bnas_jax": __version__,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "device": f"{jax.device_count()} x {device.device_kind}",
        "host": platform.node(),
    }


class WorkDir(RunDirectory):
    """One run's directory. `open` makes it or, for the same settings, goes on in it.

    extensions: files of the user's own entries, as a new run notes them: {"file", "sha256"} each.
    """

    def __init__(self, path: str | os.PathLike, *, extensions: Sequence[Mapping] = ()):
        super().__init__(path)
        self._extensions = [dict(extension) for extension in extensions]
        self._held: int | None = None
        self._changes: list[Difference] = []

    def open(
        self, run: Settings, facts: Facts, *, change: bool = False, init: Mapping | None = None
    ) -> None:
        """Locks the directory; writes config.json and run.json (facts about data, versions and hardware) into a new one.

        change: settings of a run that goes on may differ, see `changes.check`; `note_changes` writes them down. init: the
        weights that a new run begins with, see `fine_tune.origin`.
        `UserError` where another run lives, or goes on, or nothing can be written, or the data is not that of the run.
        """
        hosts.on_first(lambda: self._open(run, facts, change, init))

    def check(self, run: Settings, facts: Facts, *, change: bool = False) -> Facts:
        """The facts of the run that lives here, those that it does not know as given; all as given where none lives here.

        `UserError` where another run lives here, or its data was other data. change: see `open`.
        """
        if self.exists():
            step = max(Checkpoints(self.checkpoints).steps(), default=0)
            # What a setting that is new since then is without being set.
            before = settings.to_dict(settings.from_config(self.config()))
            self._changes = changes.check(
                settings.to_dict(run), before, self.path, change=change, step=step
            )
            then = self.facts()
            _check_data(facts, facts_lib.from_dict(then))
            return facts_lib.from_dict({**facts.known(), **then})
        if self.checkpoints.exists():
            raise UserError(
                f"{self.path} holds checkpoints but no config.json to tell whose; choose another --workdir"
            )
        return facts

    def _open(self, run: Settings, facts: Facts, change: bool, init: Mapping | None) -> None:
        facts = self.check(run, facts, change=change)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock()
            if not self.exists():
                begun: dict[str, Any] = {"init": dict(init)} if init else {}
                if self._extensions:
                    begun["extensions"] = self._extensions
                write_json(
                    self / "run.json",
                    {"format": FORMAT, **facts.known(), "environment": environment(), **begun},
                )
                write_json(self / "config.json", settings.to_dict(run))
            elif facts.known().keys() - self.facts().keys():  # an imported network is trained on
                write_json(self / "run.json", {**self.facts(), **facts.known()})
        except OSError as error:
            raise UserError(
                f"cannot write to the work directory {self.path} ({error.strerror}); choose another"
            ) from None

    def _lock(self) -> None:
        """Holds the directory for this process until it ends, however it ends, or until `close`.

        The file stays: whoever waits for a file that is then removed would lock nothing.
        """
        if self._held is None:
            self._held = os.open(self / "lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.lockf(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            owner = (
                os.pread(self._held, 200, 0).decode(errors="replace").strip() or "another process"
            )
            self.close()
            raise UserError(
                f"{self.path} is in use by {owner}; wait for it to end, or choose another --workdir"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            self._warn_of_no_locks(error)
        os.truncate(self._held, 0)
        os.pwrite(self._held, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)

    def _warn_of_no_locks(self, error: OSError) -> None:
        warning = (
            f"warning: the file system of {self.path} has no locks ({error.strerror}); nothing keeps a second run out of"
            " this work directory"
        )
        self.note(warning)
        print(f"bnas_jax: {warning}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """A line of log.txt, with clock (UTC), host and process."""
        clock = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with convenience("log.txt"):
            append(self / "log.txt", f"{clock} {platform.node()} {os.getpid()} {text}\n")

    def say(self, text: str) -> None:
        """The same on stderr, too, on the first process."""
        if hosts.is_first():
            self.note(text)
            print(f"bnas_jax: {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Lets go of the directory."""
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def note_changes(self, run: Settings, step: int) -> list[dict]:
        """Writes the settings that `open` found changed into config.json, as of `step`, and returns what was added there.

        Results of the run as it was are removed: summary.json.
        """
        added = changes.records(self._changes, step)
        if added:
            write_json(
                self / "config.json",
                {**settings.to_dict(run), "changed": [*self.changed(), *added]},
            )
            (self / "summary.json").unlink(missing_ok=True)
        self._changes = []
        return added


def _check_data(now: Facts, then: Facts) -> None:
    """Raises `UserError` unless the data at config.dataset.path is still that with which the run began."""
    difference = facts_lib.difference(now, then)
    if difference:
        raise UserError(
            f"{difference} when the run began; restore that data (config.dataset.path may say where it is now), or choose"
            " another --workdir"
        )


class Log:
    """metrics.jsonl and TensorBoard, one record an epoch, and log.txt, what was said and when. The first process alone writes.

    Records after the step that a run resumes from are cut off; log.txt goes on.
    """

    def __init__(self, workdir: WorkDir, step: int):
        self._workdir = workdir
        self._tensorboard = None
        if not hosts.is_first():
            return
        self._path = workdir / "metrics.jsonl"
        records = [r for r in workdir.read_metrics() if r["step"] <= step]
        with whole(self._path) as part:
            part.write_text("".join(json.dumps(r) + "\n" for r in records))
        self._tensorboard = TensorBoard(workdir / "tensorboard", step + 1)

    def write(self, record: Mapping) -> None:
        """`UserError`, and no part of the record, where there is no room for it."""
        if self._tensorboard is None:
            return
        with room(self._path):
            append(self._path, json.dumps(record) + "\n")
        self._tensorboard.write(record)

    def note(self, text: str) -> None:
        """A line of log.txt, see `WorkDir.note`."""
        if self._tensorboard is not None:
            self._workdir.note(text)

    def close(self) -> None:
        if self._tensorboard is not None:
            self._tensorboard.close()


class TensorBoard:
    """Events for TensorBoard, written at once; without room for them the run goes on, with a warning.

    tensorboardX's own writer does it in a thread, which ends on a full disk, and the run then waits for it without end.
    """

    def __init__(self, folder: pathlib.Path, first_step: int):
        from tensorboardX.proto.event_pb2 import SessionLog
        from tensorboardX.record_writer import RecordWriter

        self._file: Any = None
        with convenience("TensorBoard events"):
            folder.mkdir(exist_ok=True)
            name = f"events.out.tfevents.{time.time():.0f}.{platform.node()}"
            self._file = RecordWriter(str(folder / name))
        self._add([{"file_version": "brain.Event:2"}])
        # What another process wrote from that step on is to be forgotten.
        self._add([{"step": first_step, "session_log": SessionLog(status=SessionLog.START)}])

    def write(self, record: Mapping) -> None:
        """The numbers of a record as scalars at its step."""
        from tensorboardX.summary import scalar

        numbers = {k: v for k, v in record.items() if isinstance(v, (int, float)) and k != "step"}
        self._add(
            [
                {"step": record["step"], "summary": scalar(name, value)}
                for name, value in numbers.items()
            ]
        )

    def _add(self, events: list[dict]) -> None:
        from tensorboardX.proto.event_pb2 import Event

        if self._file is None:
            return
        with convenience("TensorBoard events"):
            try:
                for event in events:
                    self._file.write(Event(wall_time=time.time(), **event).SerializeToString())
                self._file.flush()
            except OSError:
                with contextlib.suppress(OSError):  # what it still holds cannot be written
                    self.close()
                raise

    def close(self) -> None:
        """Ends the file."""
        file, self._file = self._file, None
        if file is not None:
            file.close()
