"""The processes of a run, on one or many hosts, and how they communicate.

They find each other, compare their settings, and end if one of them is lost. In a run
of one process these functions do nothing. Only the first process writes files and logs,
but every process saves its part of a checkpoint. Decisions such as saving by the clock
are made by the first process, and sent to the others.
"""

import hashlib
import importlib.util
import json
import os
import pathlib
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from bnas_jax import __version__, settings
from bnas_jax.core.errors import PassingError, UserError, first_line
from bnas_jax.settings import DistributedSettings, Settings

# The exit code of a run that has lost another host.
LOST = PassingError.exit_code
# The number of steps between two waits for their results, in a run of several
# processes. A process that hangs is noticed in such a wait.
WAIT_EVERY = 10
# The settings in which the processes of a run may differ.
OF_A_PROCESS = ("distributed.", "dataset.path", "dataset.workers")


def count() -> int:
    """The number of processes."""
    return jax.process_count()


def is_first() -> bool:
    """Whether this is the first process, which writes files and logs."""
    return jax.process_index() == 0


def join(run: DistributedSettings) -> None:
    """Joins the other processes, which the settings or the cluster name.

    It must be called before JAX is used. It ends this process if the others do not all
    join within `timeout_seconds`.

    Raises `UserError` if they cannot be reached.
    """
    # Without a number of processes in the settings, join those of the cluster.
    cluster = None
    if run.num_processes is None:
        cluster = _cluster()
    alone = cluster is None and (run.num_processes or 1) == 1
    if alone or jax.distributed.is_initialized():
        return

    where = f"{run.num_processes} processes at {run.coordinator}"
    if cluster:
        where = f"the processes of {cluster}"
    if run.coordinator and run.process_id == 0:
        _check_port(run.coordinator)

    # The alarm ends this process with a message. JAX's own timeout, a minute later,
    # would abort it with a stack trace.
    remedy = (
        "start them all, with the same settings, or raise "
        "config.distributed.timeout_seconds"
    )
    message = f"error: not all {where} came in {run.timeout_seconds} s; {remedy}"
    alarm = threading.Timer(run.timeout_seconds, function=_end, args=(message, 2))
    alarm.daemon = True
    alarm.start()

    try:
        jax.distributed.initialize(
            run.coordinator,
            num_processes=run.num_processes,
            process_id=run.process_id,
            initialization_timeout=run.timeout_seconds + 60,
            heartbeat_timeout_seconds=run.timeout_seconds,
            shutdown_timeout_seconds=min(run.timeout_seconds, 60),
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise UserError(
            f"cannot join {where}: {first_line(error)}; name them by "
            "config.distributed.coordinator, num_processes and process_id, or write "
            "--config.distributed.num_processes=1 for this process alone"
        ) from None
    finally:
        alarm.cancel()


def end_by_sigterm() -> None:
    """Lets SIGTERM end a run of one process, until `Stops` handles it.

    Otherwise JAX's preemption service catches it, even in a cluster of one process,
    such as a TPU machine with one host.
    """
    if count() == 1 and jax.distributed.is_initialized():
        # Python does not know JAX's handler: this restores its own.
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


def _check_port(coordinator: str) -> None:
    """Raises `UserError` if the first process cannot listen on its port.

    If JAX itself failed to listen, it could crash while it ends.
    """
    port = coordinator.rpartition(":")[2]
    with socket.socket() as listening:
        # This allows the port of a run that has just ended.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("", int(port)))
        except (OSError, OverflowError) as error:
            raise UserError(
                f"the port of config.distributed.coordinator={coordinator} cannot be "
                f"used ({error}); write another port"
            ) from None


def _cluster() -> str | None:
    """The name of the cluster whose processes JAX finds by itself; None without one.

    Its environment variables tell which cluster it is.
    """
    several = lambda name: int(os.environ.get(name) or 1) > 1
    if several("SLURM_STEP_NUM_TASKS"):
        return "the Slurm step"
    if several("OMPI_COMM_WORLD_SIZE"):
        return "the MPI job"
    if "JOB_COMPLETION_INDEX" in os.environ and "KUBERNETES_SERVICE_HOST" in os.environ:
        return "the Kubernetes job"

    # A TPU machine has an environment variable, or libtpu and device files.
    devices = [
        *pathlib.Path("/dev").glob("accel*"),
        *pathlib.Path("/dev/vfio").glob("[0-9]*"),
    ]
    if "TPU_WORKER_HOSTNAMES" in os.environ:
        return "the TPU slice"
    if importlib.util.find_spec("libtpu") and devices:
        return "the TPU slice"
    return None


def code_version() -> str:
    """The version of the package and a digest of its source."""
    digest = hashlib.sha256()
    root = pathlib.Path(__file__).parent.parent
    for path in sorted(root.rglob("*.py")):
        name = str(path.relative_to(root))
        digest.update(name.encode() + b"\0" + path.read_bytes())
    return f"{__version__}+{digest.hexdigest()[:12]}"


def agree(run: Settings) -> None:
    """Raises `UserError` on every process if the processes differ.

    A process differs if its settings, its code or its libraries are not those of the
    first. The error names the difference.
    """
    if count() == 1:
        return

    # Find the first difference between this process and the first one.
    versions = {
        "the code": code_version(),
        "jax": jax.__version__,
        "python": sys.version.split()[0],
    }
    ours = {"config": settings.to_dict(run), "versions": versions}
    theirs = json.loads(from_first(json.dumps(ours)))
    difference = _other_setting(ours["config"], theirs["config"])
    if not difference:
        difference = _other_version(versions, theirs["versions"])

    # All processes receive all differences, so that all of them end.
    differences = [text for text in from_all(difference) if text]
    if differences:
        raise UserError(
            f"the processes disagree: {differences[0]}; start all with the same code "
            "and settings"
        )


def _other_setting(ours: Mapping, theirs: Mapping) -> str:
    """A text about the first setting that differs from the first process's, or "".

    Settings in `OF_A_PROCESS` may differ. Settings that may change when a run is
    continued may not: if processes saved at different steps, for instance, each would
    wait for the others.
    """
    for found in settings.differences(ours, theirs):
        if not found.key.startswith(OF_A_PROCESS):
            return (
                f"config.{found.key} is {found.ours!r} on process "
                f"{jax.process_index()} and {found.theirs!r} on the first"
            )
    return ""


def _other_version(ours: Mapping, theirs: Mapping) -> str:
    """A text about the first version that differs from the first process's, or ""."""
    for name, version in ours.items():
        if version != theirs.get(name):
            return (
                f"{name} is {version} on process {jax.process_index()} and "
                f"{theirs.get(name)} on the first"
            )
    return ""


def from_first(text: str) -> str:
    """The text of the first process, returned on every process."""
    if count() == 1:
        return text

    # Arrays must have the same shape on all processes. Therefore the length of the text
    # is sent first, and then the bytes, for which the others use as many bytes.
    data = text.encode()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    fitted = data.ljust(size)[:size]
    mine = np.frombuffer(fitted, np.uint8)
    received = np.asarray(multihost_utils.broadcast_one_to_all(mine))
    return bytes(received).decode()


def from_all(text: str, size: int = 400) -> list[str]:
    """The texts of all processes, cut to `size` bytes, returned on every process."""
    if count() == 1:
        return [text]
    fitted = text.encode()[:size].ljust(size)
    mine = np.frombuffer(fitted, np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(mine))  # (processes, size)
    return [bytes(row).decode(errors="ignore").strip() for row in rows]


def meet() -> None:
    """Waits until every process has called this function.

    Processes may take very different times to compile: only the first one writes JAX's
    cache, so that it may find programs there which the others compile for minutes.
    Without this wait it would wait inside its first step, where collectives on CPUs
    time out after 30 s.
    """
    if count() > 1:
        multihost_utils.sync_global_devices("bnas_jax")


def on_first(action: Callable[[], None]) -> None:
    """Calls `action` on the first process while the others wait.

    If it raises an error, the others raise a `UserError` with the same message.
    """
    failure: Exception | None = None
    if is_first():
        try:
            action()
        except Exception as error:
            failure = error

    # Send the message to the others; "" means no error.
    message = ""
    if failure is not None:
        message = first_line(failure)
    message = from_first(message)
    if failure is not None:
        raise failure
    if message:
        raise UserError(message)


def end_together(problem: str) -> None:
    """Raises `UserError` on every process if one has a problem.

    problem: the problem of this process; "" for none.
    """
    problems = [text for text in from_all(problem) if text]
    if problems:
        raise UserError(problems[0])


def first_says(answer: bool) -> bool:
    """The answer of the first process, returned on every process."""
    if count() == 1:
        return answer
    return bool(multihost_utils.broadcast_one_to_all(np.bool_(answer)))


def _end(message: str, code: int) -> None:
    """Ends this process, with a message and an exit code."""
    print(f"bnas_jax: {message}", file=sys.stderr, flush=True)
    # Nothing else ends a process that hangs in a collective.
    os._exit(code)


class Watchdog:
    """Ends the process, with exit code `LOST`, if `beat` is not called for some time.

    It does nothing in runs of one process.

    seconds: the longest time between two beats.
    """

    def __init__(self, seconds: float):
        self._seconds = seconds
        # The time and the step of the last beat.
        self._beaten = time.monotonic()
        self._step = 0
        self._closed = threading.Event()

    def __enter__(self) -> "Watchdog":
        if count() > 1:
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._closed.set()

    def beat(self, step: int) -> None:
        """Reports that the run makes progress.

        step: the last step whose result has arrived.
        """
        self._beaten = time.monotonic()
        self._step = step

    def _watch(self) -> None:
        """Checks the time of the last beat, in a thread, until the context ends."""
        # `wait` returns True once the context has ended.
        while not self._closed.wait(min(1.0, self._seconds / 4)):
            if time.monotonic() - self._beaten > self._seconds:
                message = (
                    f"nothing came for {self._seconds:g} s after step {self._step}: "
                    f"another of the {count()} processes is lost or hangs; the same "
                    "command on all of them continues from the last checkpoint (or "
                    "raise config.distributed.timeout_seconds)"
                )
                _end(message, LOST)
