"""The work directory: config.json, metrics.jsonl, TensorBoard events, checkpoints/, genotype.json and summary.json."""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import platform
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from bnas_jax import __version__, settings
from bnas_jax.core import paths
from bnas_jax.core.errors import UserError
from bnas_jax.data import facts as facts_lib
from bnas_jax.data.facts import Facts
from bnas_jax.runtime import hosts
from bnas_jax.settings import Difference, Settings
from bnas_jax.training import changes
from bnas_jax.training.checkpoints import Checkpoints

# Of the settings and the checkpoint in a work directory; 1 had other names and no number.
FORMAT = 2
_VERSIONS = {1: "0.1.0"}
# What locking says on file systems that cannot: FUSE, Lustre without flock, NFS without its lock service.
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


def write_json(path: pathlib.Path, value) -> None:
    """`write_whole` on the first process alone."""
    if hosts.is_first():
        write_whole(path, value)


def write_whole(path: pathlib.Path, value) -> None:
    """Writes a file of JSON whole or not at all."""
    with whole(path) as part:
        part.write_text(json.dumps(value, indent=1) + "\n")


@contextlib.contextmanager
def whole(path: pathlib.Path):
    """Gives the file to write in place of `path`, which it becomes at the end; nothing of it stays where that fails.

    `UserError` where the disk is full or does not take it.
    """
    part = path.with_name("part." + path.name)
    try:
        with _room(path):
            yield part
            os.replace(part, path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def _room(path: pathlib.Path):
    """A file that cannot be written is a `UserError`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write {path} ({reason}); make room there or mend it, the same command goes on") from error


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


class WorkDir:
    """One run's directory. `open` makes it or, for the same settings, goes on in it.

    extensions: files of the user's own entries, as a new run notes them: {"file", "sha256"} each.
    """

    def __init__(self, path: str | os.PathLike, *, extensions: Sequence[Mapping] = ()):
        self.path = paths.local(path, "--workdir").absolute()
        self._extensions = [dict(extension) for extension in extensions]
        self._held: int | None = None
        self._changes: list[Difference] = []

    def __truediv__(self, name: str) -> pathlib.Path:
        return self.path / name

    @property
    def checkpoints(self) -> pathlib.Path:
        return self.path / "checkpoints"

    def open(self, run: Settings, facts: Facts, *, change: bool = False, init: Mapping | None = None) -> None:
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
            self._changes = changes.check(settings.to_dict(run), self.config(), self.path, change=change, step=step)
            then = self.facts()
            _check_data(facts, facts_lib.from_dict(then))
            return facts_lib.from_dict({**facts.known(), **then})
        if self.checkpoints.exists():
            raise UserError(f"{self.path} holds checkpoints but no config.json to tell whose; choose another --workdir")
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
                write_json(self / "run.json", {"format": FORMAT, **facts.known(), "environment": environment(), **begun})
                write_json(self / "config.json", settings.to_dict(run))
            elif facts.known().keys() - self.facts().keys():  # an imported network is trained on
                write_json(self / "run.json", {**self.facts(), **facts.known()})
        except OSError as error:
            raise UserError(f"cannot write to the work directory {self.path} ({error.strerror}); choose another") from None

    def _lock(self) -> None:
        """Holds the directory for this process until it ends, however it ends, or until `close`.

        The file stays: whoever waits for a file that is then removed would lock nothing.
        """
        if self._held is None:
            self._held = os.open(self / "lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.lockf(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            owner = os.pread(self._held, 200, 0).decode(errors="replace").strip() or "another process"
            self.close()
            raise UserError(f"{self.path} is in use by {owner}; wait for it to end, or choose another --workdir") from None
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
        with _convenience("log.txt"):
            _append(self / "log.txt", f"{clock} {platform.node()} {os.getpid()} {text}\n")

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

    def exists(self) -> bool:
        return (self / "config.json").is_file()

    def config(self) -> dict:
        """The run's resolved settings; `UserError` where there are none."""
        self._check_format()
        return {key: value for key, value in self._read("config.json").items() if key != "changed"}

    def _check_format(self) -> None:
        """`UserError` for a directory of a version whose settings and parameters have other names."""
        if not (self / "run.json").is_file():
            return
        found = self._read("run.json").get("format", 1)
        if found != FORMAT:
            raise UserError(
                f"{self.path} has the format {found} of bnas-jax {_VERSIONS.get(found, 'newer than this')}, which reads it; "
                f"this is {__version__}: use that version for it, or choose another --workdir"
            )

    def changed(self) -> list[dict]:
        """The changes of the run's settings so far, the first one first: {"step", "key", "from", "to"} each."""
        return self._read("config.json").get("changed", [])

    def note_changes(self, run: Settings, step: int) -> list[dict]:
        """Writes the settings that `open` found changed into config.json, as of `step`, and returns what was added there.

        Results of the run as it was are removed: summary.json.
        """
        added = changes.records(self._changes, step)
        if added:
            write_json(self / "config.json", {**settings.to_dict(run), "changed": [*self.changed(), *added]})
            (self / "summary.json").unlink(missing_ok=True)
        self._changes = []
        return added

    def facts(self) -> dict:
        """What `open` noted of the run: the values of `data.facts.Facts` that are known, the environment, and perhaps init."""
        values = self._read("run.json")
        if not isinstance(values.get("num_classes"), int) or not isinstance(values.get("image_shape"), list):
            raise UserError(f"{self / 'run.json'} lacks num_classes or image_shape; restore it or choose another --workdir")
        return values

    def _read(self, name: str) -> dict:
        try:
            value = json.loads((self / name).read_text())
        except FileNotFoundError:
            raise UserError(
                f"{self.path} is no work directory: it has no {name}; name one that search or train wrote"
            ) from None
        except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"{self / name} cannot be read ({error}); restore it or choose another --workdir") from None
        if not isinstance(value, dict):
            raise UserError(f"{self / name} holds no JSON object; restore it or choose another --workdir")
        return value

    def read_metrics(self) -> list[dict]:
        """The records of metrics.jsonl; a line that a stop cut short or that is damaged is left out."""
        if not (self / "metrics.jsonl").is_file():
            return []
        records = []
        for line in (self / "metrics.jsonl").read_text(errors="replace").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                records.append(json.loads(line))
        return [r for r in records if isinstance(r, dict) and isinstance(r.get("step"), int)]


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
        with _room(self._path):
            _append(self._path, json.dumps(record) + "\n")
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
        with _convenience("TensorBoard events"):
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
        self._add([{"step": record["step"], "summary": scalar(name, value)} for name, value in numbers.items()])

    def _add(self, events: list[dict]) -> None:
        from tensorboardX.proto.event_pb2 import Event

        if self._file is None:
            return
        with _convenience("TensorBoard events"):
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


def _append(path: pathlib.Path, line: str) -> None:
    """Adds a line, or nothing."""
    with path.open("ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        data = line.encode()
        try:
            while data:  # a disk that becomes full takes a part
                data = data[file.write(data) :]
        except OSError:
            file.truncate(size)
            raise


@contextlib.contextmanager
def _convenience(what: str):
    """A run goes on without what it does not need; a warning says so."""
    try:
        yield
    except OSError as error:
        warnings.warn(f"{what} cannot be written ({error.strerror or error}); the run goes on", stacklevel=3)
