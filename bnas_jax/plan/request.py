"""Makes a plan in a separate process, or takes one that was made before.

The process is separate because JAX uses one platform per process: once it has loaded
the compiler for TPUs that are not there, it cannot use the devices of this machine, and
once it uses these devices, it cannot load the compiler.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

from bnas_jax import settings
from bnas_jax.core.errors import UserError
from bnas_jax.plan.blank_data import SIZES
from bnas_jax.plan.machines import machine
from bnas_jax.runtime.compilation_cache import user_cache
from bnas_jax.settings import SearchSettings, TrainSettings
from bnas_jax.workdir.files import write_whole

_PACKAGE = pathlib.Path(__file__).parent.parent
# Packages whose versions affect a compiled program.
_COMPILERS = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "libtpu",
    "jax-cuda12-plugin",
    "jax-cuda13-plugin",
)

# The environment of the process that compiles.
_ENVIRONMENT = {
    # The platform on which JAX computes, for instance constants.
    "JAX_PLATFORMS": "cpu",
    # Otherwise libtpu would ask Google's metadata server for the type of this machine,
    # for minutes if there is no such server.
    "TPU_SKIP_MDS_QUERY": "1",
    # libtpu warns unless some machine is named, which has no influence on the machine
    # that is compiled for.
    "TPU_ACCELERATOR_TYPE": "v4-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    # Several processes may compile at the same time.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
# Variables other than JAX's that change a compiled program.
_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
# Without this flag, XLA would time algorithms of its libraries on a GPU.
_WITHOUT_A_GPU = "--xla_gpu_autotune_level=0"


@dataclasses.dataclass(frozen=True)
class Request:
    """The run to compile, and the machine to compile it for."""

    run: SearchSettings | TrainSettings
    # The name of the machine, see `machines.machine`.
    machine: str
    # `step` or `evaluate`.
    of: str
    # See `compile.compile_for`.
    quick: bool = False
    # The files of extensions that the run was loaded with.
    extensions: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The request as plain values, for the process that compiles."""
        return {
            "settings": settings.to_dict(self.run),
            "machine": machine(self.machine).name,
            "of": self.of,
            "quick": self.quick,
            "extensions": list(self.extensions),
        }


def planned(request: Request, *, again: bool = False) -> dict[str, Any]:
    """The summary of a plan, see `summary`.

    It is read from disk if a plan with the same settings, source and versions was made
    before.

    again: True makes it again in any case.

    Raises the `UserError` of the process that compiles.
    """
    # Take the plan that was stored. If it cannot be read, make it again.
    kept = _kept(request)
    if kept is not None and not again:
        with contextlib.suppress(OSError, ValueError):
            return json.loads(kept.read_text())

    # Make the plan and store it. An error in storing it does not affect the plan.
    result = _made(request.to_dict())
    if kept is not None:
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_whole(kept, result)
        except (OSError, UserError) as error:
            print(
                f"bnas_jax: warning: this plan is not kept ({error})", file=sys.stderr
            )
    return result


def versions() -> dict[str, str]:
    """{package: version} of the compilers and libraries that are installed."""
    found = {}
    for name in _COMPILERS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _made(request: Mapping[str, Any]) -> dict[str, Any]:
    """The summary of a plan, made in a separate process.

    request: the result of `Request.to_dict`.
    """
    environment = _environment(request["machine"])
    with tempfile.TemporaryDirectory() as folder:
        asked = pathlib.Path(folder, "request.json")
        answered = pathlib.Path(folder, "plan.json")
        asked.write_text(json.dumps(request))

        # The process ends when its stdin is closed, so that it always ends with this
        # one. In a group of its own, it does not get Ctrl-C, and prints no traceback.
        command = [sys.executable, "-m", "bnas_jax.plan", str(asked), str(answered)]
        with subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=sys.stderr,
            process_group=0,
        ) as process:
            try:
                code = process.wait()
            finally:
                process.kill()

        # A process that was killed leaves no answer; other errors are in its answer.
        if not answered.is_file():
            raise UserError(
                f"the process that compiles for {request['machine']} ended with {code} "
                "before it was done; where that is -9, memory was short: close other "
                "programs"
            )
        result = json.loads(answered.read_text())
    if "error" in result:
        raise UserError(result["error"])
    return result


def _environment(machine_name: str) -> dict[str, str]:
    """The environment of the process that compiles for a machine."""
    environment = {**os.environ, **_ENVIRONMENT}
    if machine(machine_name).platform == "gpu":
        flags = environment.get("XLA_FLAGS", "")
        environment["XLA_FLAGS"] = f"{flags} {_WITHOUT_A_GPU}".strip()

    # The process imports this package from the same place.
    paths = (str(_PACKAGE.parent), os.environ.get("PYTHONPATH", ""))
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return environment


def _kept(request: Request) -> pathlib.Path | None:
    """The file in which the plan is stored.

    It is None if there is no directory for it, and for a plan that depends on data or
    on a teacher on disk, which may change.
    """
    # Store only plans that follow from the settings alone.
    run = request.run
    if run.dataset.name not in SIZES and run.dataset.name != "digits":
        return None
    if isinstance(run, TrainSettings) and run.teacher.workdir is not None:
        return None
    try:
        folder = user_cache() / "bnas_jax" / "plans"
    except (OSError, RuntimeError):
        return None

    # The name is a hash of everything that affects the plan.
    names = [name for name in os.environ if name.startswith("JAX_") or name in _FLAGS]
    asked = {
        **request.to_dict(),
        "versions": {**versions(), "python": sys.version},
        "environment": {name: os.environ[name] for name in sorted(names)},
        "source": _source(request.extensions),
    }
    text = json.dumps(asked, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return folder / f"{digest[:32]}.json"


def _source(extensions: tuple[str, ...]) -> str:
    """A hash of the package's files and of the extensions."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(str(path.relative_to(_PACKAGE)).encode())
        digest.update(path.read_bytes())
    for file in extensions:
        digest.update(pathlib.Path(file).read_bytes())
    return digest.hexdigest()
