"""The work directory: config.json, metrics.jsonl, TensorBoard events, checkpoints/, genotype.json and summary.json."""

import contextlib
import fcntl
import json
import os
import pathlib
import platform
import time
import warnings
from collections.abc import Mapping
from typing import Any

import jax

from bnas_jax import __version__, settings
from bnas_jax.core.errors import UserError
from bnas_jax.settings import Settings
from bnas_jax.training import hosts


def write_json(path: pathlib.Path, value) -> None:
    """Writes a file whole or not at all, on the first process alone."""
    if hosts.is_first():
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
    """One run's directory. `open` makes it or, for the same settings, goes on in it."""

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path).absolute()
        self._held: int | None = None

    def __truediv__(self, name: str) -> pathlib.Path:
        return self.path / name

    @property
    def checkpoints(self) -> pathlib.Path:
        return self.path / "checkpoints"

    def open(self, run: Settings, *, num_classes: int, image_shape: tuple[int, ...]) -> None:
        """Locks the directory; writes config.json and run.json (facts about data, versions and hardware) into a new one.

        image_shape: (H, W, C). `UserError` where another run lives, or goes on, or nothing can be written.
        """
        hosts.on_first(lambda: self._open(run, num_classes, image_shape))

    def _open(self, run: Settings, num_classes: int, image_shape: tuple[int, ...]) -> None:
        config = settings.to_dict(run)
        if self.exists():
            difference = settings.first_difference(config, self.config())
            if difference:
                raise UserError(f"{self.path} belongs to another run: {difference}; choose another --workdir")
            _check_data(self.facts(), num_classes, image_shape)
        elif self.checkpoints.exists():
            raise UserError(f"{self.path} holds checkpoints but no config.json to tell whose; choose another --workdir")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock()
            if not self.exists():
                facts = {"num_classes": num_classes, "image_shape": list(image_shape), "environment": environment()}
                write_json(self / "run.json", facts)
                write_json(self / "config.json", config)
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
        os.truncate(self._held, 0)
        os.pwrite(self._held, f"process {os.getpid()} on {platform.node()}\n".encode(), 0)

    def close(self) -> None:
        """Lets go of the directory."""
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def exists(self) -> bool:
        return (self / "config.json").is_file()

    def config(self) -> dict:
        """The run's resolved settings; `UserError` where there are none."""
        return self._read("config.json")

    def facts(self) -> dict:
        """What `open` noted of the run: num_classes, image_shape, environment."""
        return self._read("run.json")

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


def _check_data(facts: dict, num_classes: int, image_shape: tuple[int, ...]) -> None:
    """Raises `UserError` unless the data at config.dataset.path is still like that with which the run began."""
    now, then = (num_classes, *image_shape), (facts.get("num_classes"), *facts.get("image_shape", ()))
    if now != then:
        raise UserError(
            f"the data has {now[0]} classes and images {now[1:]} now, and had {then[0]} and {then[1:]} when the run began;"
            " change config.dataset.path back, or choose another --workdir"
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
        """A line of log.txt, with clock (UTC), host and process."""
        if self._tensorboard is None:
            return
        clock = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with _convenience("log.txt"):
            _append(self._workdir / "log.txt", f"{clock} {platform.node()} {os.getpid()} {text}\n")

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
