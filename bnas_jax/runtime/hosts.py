"""The processes of a run, on one host or many: how they find each other, agree, and end when one of them is lost.

In a run of one process nothing here does anything. The first process alone writes files and logs; every process saves its
part of a checkpoint. What one process decides for all (to stop, to save by the clock) it tells the others first.
"""

import hashlib
import importlib.util
import json
import os
import pathlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from bnas_jax import __version__, settings
from bnas_jax.core.errors import UserError
from bnas_jax.settings import DistributedSettings, Settings

# What a launcher starts again: a run that another host has let down (EX_TEMPFAIL of sysexits.h).
LOST = 75
# Steps between two waits for their results where there are several processes: so often is a hanging one noticed.
WAIT_EVERY = 10


def count() -> int:
    return jax.process_count()


def is_first() -> bool:
    return jax.process_index() == 0


def join(run: DistributedSettings) -> None:
    """Meets the other processes, before JAX's first use: those of the settings, or of the cluster that this one is part of.

    `UserError` where they cannot be reached; ends the process where they are not all there in `timeout_seconds`.
    """
    cluster = _cluster() if run.num_processes is None else None
    if jax.distributed.is_initialized() or (cluster is None and (run.num_processes or 1) == 1):
        return
    where = (
        f"the processes of {cluster}"
        if cluster
        else f"{run.num_processes} processes at {run.coordinator}"
    )
    remedy = "start them all, with the same settings, or raise config.distributed.timeout_seconds"
    if run.coordinator and run.process_id == 0:
        _check_port(run.coordinator)
    # JAX would abort with a stack trace.
    alarm = threading.Timer(
        run.timeout_seconds,
        _end,
        (f"error: not all {where} came in {run.timeout_seconds} s; {remedy}", 2),
    )
    alarm.daemon = True
    alarm.start()
    try:
        jax.distributed.initialize(
            run.coordinator,
            run.num_processes,
            run.process_id,
            initialization_timeout=run.timeout_seconds + 60,
            heartbeat_timeout_seconds=run.timeout_seconds,
            shutdown_timeout_seconds=min(run.timeout_seconds, 60),
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"cannot join {where}: {str(error).splitlines()[0]}; see config.distributed"
        ) from None
    finally:
        alarm.cancel()


def _check_port(coordinator: str) -> None:
    """`UserError` where the first process could not listen: after a failure of its own JAX may crash on the way out."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("", int(coordinator.rpartition(":")[2])))
        except (OSError, OverflowError) as error:
            raise UserError(
                f"the port of config.distributed.coordinator={coordinator} cannot be used ({error}); write another port"
            ) from None


def _cluster() -> str | None:
    """The cluster whose processes JAX finds by itself, by what it leaves in the environment."""
    several = lambda name: int(os.environ.get(name) or 1) > 1
    if several("SLURM_STEP_NUM_TASKS"):
        return "the Slurm step"
    if several("OMPI_COMM_WORLD_SIZE"):
        return "the MPI job"
    if "JOB_COMPLETION_INDEX" in os.environ and "KUBERNETES_SERVICE_HOST" in os.environ:
        return "the Kubernetes job"
    devices = [*pathlib.Path("/dev").glob("accel*"), *pathlib.Path("/dev/vfio").glob("[0-9]*")]
    if "TPU_WORKER_HOSTNAMES" in os.environ or (importlib.util.find_spec("libtpu") and devices):
        return "the TPU slice"
    return None


def code_version() -> str:
    """The version of the package and a digest of its source."""
    digest = hashlib.sha256()
    root = pathlib.Path(__file__).parent.parent
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:12]}"


def agree(run: Settings) -> None:
    """`UserError` on every process if one has other settings, code or libraries than the first; names what differs."""
    if count() == 1:
        return
    versions = {
        "the code": code_version(),
        "jax": jax.__version__,
        "python": sys.version.split()[0],
    }
    ours = {"config": settings.to_dict(run), "versions": versions}
    theirs = json.loads(from_first(json.dumps(ours)))
    difference = settings.first_difference(ours["config"], theirs["config"]) or _difference(
        versions, theirs["versions"]
    )
    said = [text for text in _from_all(difference or "") if text]
    if said:
        raise UserError(
            f"the processes disagree: {said[0]} in the first one; start all with the same code and settings"
        )


def _difference(ours: Mapping, theirs: Mapping) -> str | None:
    differing = [
        f"{name} is {ours[name]} here and {theirs.get(name)}"
        for name in ours
        if ours[name] != theirs.get(name)
    ]
    return next(iter(differing), None)


def from_first(text: str) -> str:
    """The first process's text, on every process."""
    if count() == 1:
        return text
    data = text.encode()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    mine = np.frombuffer(data.ljust(size)[:size], np.uint8)
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(mine))).decode()


def _from_all(text: str, size: int = 400) -> list[str]:
    texts = multihost_utils.process_allgather(
        np.frombuffer(text.encode()[:size].ljust(size), np.uint8)
    )
    return [bytes(row).decode(errors="ignore").strip() for row in np.asarray(texts)]


def on_first(action: Callable[[], None]) -> None:
    """Does something on the first process while the others wait; its `UserError` is everyone's."""
    error = ""
    if is_first():
        try:
            action()
        except UserError as raised:
            error = str(raised)
    error = from_first(error)
    if error:
        raise UserError(error)


def first_says(answer: bool) -> bool:
    """The first process's answer, on every process."""
    return answer if count() == 1 else bool(multihost_utils.broadcast_one_to_all(np.bool_(answer)))


def _end(message: str, code: int) -> None:
    print(f"bnas_jax: {message}", file=sys.stderr, flush=True)
    os._exit(code)  # a process that hangs in a collective cannot be ended in another way


class Watchdog:
    """Ends the process, with exit code `LOST`, when `beat` is not called for a time. Only where there are several."""

    def __init__(self, seconds: float):
        self._seconds, self._beaten, self._step = seconds, time.monotonic(), 0
        self._closed = threading.Event()

    def __enter__(self) -> "Watchdog":
        if count() > 1:
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._closed.set()

    def beat(self, step: int) -> None:
        """step: the last one known to be done."""
        self._beaten, self._step = time.monotonic(), step

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._seconds / 4)):
            if time.monotonic() - self._beaten > self._seconds:
                _end(
                    f"nothing came for {self._seconds:g} s after step {self._step}: another of the {count()} processes is lost"
                    " or hangs; the same command on all of them goes on from the last checkpoint"
                    " (or raise config.distributed.timeout_seconds)",
                    LOST,
                )
