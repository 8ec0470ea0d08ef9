"""`Log`: the record of each epoch in metrics.jsonl and for TensorBoard, and log.txt."""

import contextlib
import pathlib
import platform
import time
from collections.abc import Mapping
from typing import Any

from bnas_jax.runtime import hosts
from bnas_jax.training.workdir import WorkDir
from bnas_jax.workdir.files import append, convenience, json_text, room, whole


class Log:
    """Writes metrics.jsonl, events for TensorBoard, and log.txt.

    Only the first process writes.

    step: the step at which the run starts or continues. Records of later steps are
        removed; log.txt keeps all its lines.
    """

    def __init__(self, workdir: WorkDir, step: int):
        self._workdir = workdir
        self._tensorboard = None
        if not hosts.is_first():
            return

        # Epochs that were lost in a crash are run again, and would have two records.
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

        Raises `UserError` if the disk has no room; then no part of it is written.
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
        """Closes the file for TensorBoard."""
        if self._tensorboard is not None:
            self._tensorboard.close()


class TensorBoard:
    """Writes events for TensorBoard, without delay.

    If the disk has no room, the run continues with a warning. tensorboardX's own writer
    is not used: its thread ends on a full disk, and the run would wait forever.
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
        # This event makes TensorBoard drop earlier events from that step on.
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

        events: the fields of each event, without the time.
        """
        from tensorboardX.proto.event_pb2 import Event

        # The file could not be opened, or was closed by an error.
        if self._file is None:
            return
        with convenience("TensorBoard events"):
            try:
                for fields in events:
                    event = Event(wall_time=time.time(), **fields)
                    self._file.write(event.SerializeToString())
                self._file.flush()
            except OSError:
                # Closing the file flushes its buffer, which fails, too.
                with contextlib.suppress(OSError):
                    self.close()
                raise

    def close(self) -> None:
        """Closes the file."""
        file, self._file = self._file, None
        if file is not None:
            file.close()
