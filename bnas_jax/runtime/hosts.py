"""The processes of a run, on one host or many.

They find each other, agree, and end when one of them is lost. In a run of one process
nothing here does anything. The first process alone writes files and logs; every process
saves its part of a checkpoint. Where one process decides for all (to stop, to save by
the clock), the others receive its answer first.
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

# The exit code of a run that another host has let down.
LOST = PassingError.exit_code
# With several processes, steps between two waits for their results. A hanging process
# is noticed in such a wait.
WAIT_EVERY = 10
# The settings in which the processes of a run may differ.
OF_A_PROCESS = ("distributed.", "dataset.path", "dataset.workers")


def count() -> int:
    """The number of processes."""
    return jax.process_count()


def is_first() -> bool:
    """Whether this process is the one that writes files and logs."""
    return jax.process_index() == 0


def join(run: DistributedSettings) -> None:
    """Joins the other processes of the settings, or of the cluster.

    To be called before JAX's first use. Ends the process where the others are not all
    there in `timeout_seconds`.

    Raises `UserError` where they cannot be reached.
    """
    # Without a number of processes, they are those of the cluster that this one is part
    # of.
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

    # The alarm ends this process. JAX would abort after its own timeout, a minute
    # later, with a stack trace.
    remedy = (
        "start them all, with the same settings, or raise "
        "config.distributed.timeout_seconds"
    )
    message = f"error: not all {where} came in {run.timeout_seconds} s; {remedy}"
    alarm = threading.Timer(run.timeout_seconds, function=_end, args=(message, 2))
    alarm.daemon = True
    alarm.start()

    # JAX connects the processes.
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
    """Has SIGTERM end a run of one process, until `Stops` takes it.

    JAX's service for preemption catches it otherwise, also where a cluster consists of
    one process, as on a TPU machine of one host.
    """
    if count() == 1 and jax.distributed.is_initialized():
        # Python does not know of JAX's handler, and has its own put back.
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


def _check_port(coordinator: str) -> None:
    """Raises `UserError` where the first process could not listen on its port.

    If JAX itself failed to listen, it might crash on the way out.
    """
    port = coordinator.rpartition(":")[2]
    with socket.socket() as listening:
        # The port of a run that has just ended can be used again.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(("", int(port)))
        except (OSError, OverflowError) as error:
            raise UserError(
                f"the port of config.distributed.coordinator={coordinator} cannot be "
                f"used ({error}); write another port"
            ) from None


def _cluster() -> str | None:
    """The cluster whose processes JAX finds by itself, None without one.

    It is known by its variables in the environment.
    """
    several = lambda name: int(os.environ.get(name) or 1) > 1
    if several("SLURM_STEP_NUM_TASKS"):
        return "the Slurm step"
    if several("OMPI_COMM_WORLD_SIZE"):
        return "the MPI job"
    if "JOB_COMPLETION_INDEX" in os.environ and "KUBERNETES_SERVICE_HOST" in os.environ:
        return "the Kubernetes job"

    # A TPU machine: by its environment, or by its devices where the library for them is
    # installed.
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

    That is when one has other settings, code or libraries than the first. The error
    names what differs.
    """
    if count() == 1:
        return

    # What this process has, what the first one has, and the first difference.
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

    # All processes hear of all differences, so that all of them end.
    differences = [text for text in from_all(difference) if text]
    if differences:
        raise UserError(
            f"the processes disagree: {differences[0]}; start all with the same code "
            "and settings"
        )


def _other_setting(ours: Mapping, theirs: Mapping) -> str:
    """The first setting in which this process differs from the first, "" for none.

    Settings in `OF_A_PROCESS` are left out. Settings that may change from one start of
    a run to the next are not: if processes saved at different steps, each would wait
    for the others.
    """
    for found in settings.differences(ours, theirs):
        if not found.key.startswith(OF_A_PROCESS):
            return (
                f"config.{found.key} is {found.ours!r} on process "
                f"{jax.process_index()} and {found.theirs!r} on the first"
            )
    return ""


def _other_version(ours: Mapping, theirs: Mapping) -> str:
    """The first version in which this process differs from the first, "" for none."""
    for name, version in ours.items():
        if version != theirs.get(name):
            return (
                f"{name} is {version} on process {jax.process_index()} and "
                f"{theirs.get(name)} on the first"
            )
    return ""


def from_first(text: str) -> str:
    """The first process's text, on every process."""
    if count() == 1:
        return text

    # Arrays must have one shape on all processes. The length of the text is sent first,
    # then its bytes. The other processes send as many bytes.
    data = text.encode()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    fitted = data.ljust(size)[:size]
    mine = np.frombuffer(fitted, np.uint8)
    received = np.asarray(multihost_utils.broadcast_one_to_all(mine))
    return bytes(received).decode()


def from_all(text: str, size: int = 400) -> list[str]:
    """The texts of all processes, on every process; each is cut to `size` bytes."""
    if count() == 1:
        return [text]
    fitted = text.encode()[:size].ljust(size)
    mine = np.frombuffer(fitted, np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(mine))  # (processes, size)
    return [bytes(row).decode(errors="ignore").strip() for row in rows]


def meet() -> None:
    """Waits until every process has come here.

    Processes may take very different times to compile: JAX lets the first one alone
    write its cache, so that it may find there what the others compile for minutes.
    Without meeting, it would wait in its first step, and on CPUs the messages of a step
    give up after 30 s.
    """
    if count() > 1:
        multihost_utils.sync_global_devices("bnas_jax")


def on_first(action: Callable[[], None]) -> None:
    """Calls `action` on the first process while the others wait.

    What it raises there is raised on the others, too, as a `UserError`.
    """
    # The action, and what it raised.
    failure: Exception | None = None
    if is_first():
        try:
            action()
        except Exception as error:
            failure = error

    # The others hear of it: "" where nothing was raised.
    message = ""
    if failure is not None:
        message = first_line(failure)
    message = from_first(message)
    if failure is not None:
        raise failure
    if message:
        raise UserError(message)


def end_together(problem: str) -> None:
    """Raises `UserError` on every process where one has a problem; "" is none."""
    problems = [text for text in from_all(problem) if text]
    if problems:
        raise UserError(problems[0])


def first_says(answer: bool) -> bool:
    """The first process's answer, on every process."""
    if count() == 1:
        return answer
    return bool(multihost_utils.broadcast_one_to_all(np.bool_(answer)))


def _end(message: str, code: int) -> None:
    """Ends this process, with a message and an exit code."""
    print(f"bnas_jax: {message}", file=sys.stderr, flush=True)
    # A process that hangs in a collective cannot be ended in another way.
    os._exit(code)


class Watchdog:
    """Ends the process, with exit code `LOST`, when `beat` is not called for a time.

    It does so in runs of several processes only.

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
        """Notes that the run goes on.

        step: the last one known to be done.
        """
        self._beaten = time.monotonic()
        self._step = step

    def _watch(self) -> None:
        """The thread: looks at the time of the last beat, until the context ends."""
        # `wait` returns True once the context has ended.
        while not self._closed.wait(min(1.0, self._seconds / 4)):
            if time.monotonic() - self._beaten > self._seconds:
                message = (
                    f"nothing came for {self._seconds:g} s after step {self._step}: "
                    f"another of the {count()} processes is lost or hangs; the same "
                    "command on all of them goes on from the last checkpoint (or raise "
                    "config.distributed.timeout_seconds)"
                )
                _end(message, LOST)
