"""A plan made in a process of its own, or taken from those that were made before.

Another process, as JAX takes one platform: where it has loaded the compiler for TPUs,
which are not here, the devices of this machine cannot be used any more, and where it
uses those, the compiler cannot be loaded.
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
_COMPILERS = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "libtpu",
    "jax-cuda12-plugin",
    "jax-cuda13-plugin",
)

# Of the process that compiles. What JAX computes itself, such as shapes, it does on the
# CPU.
_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    # libtpu would ask Google's metadata server what machine this is, for minutes where
    # there is none. It says what it lacks unless it is told of some machine, which has
    # no influence on the one that is compiled for.
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v4-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    # Several processes may compile at the same time.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
# Variables beside JAX's that change what is compiled.
_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS")
# XLA would try algorithms of its libraries on the GPU.
_WITHOUT_A_GPU = "--xla_gpu_autotune_level=0"


@dataclasses.dataclass(frozen=True)
class Request:
    """What is to be compiled. of: `step` or `evaluate`. quick: see
    `compile.compile_for`. extensions: files that the run was loaded with.
    """

    run: SearchSettings | TrainSettings
    machine: str
    of: str
    quick: bool = False
    extensions: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For the process that compiles."""
        return {
            "settings": settings.to_dict(self.run),
            "machine": machine(self.machine).name,
            "of": self.of,
            "quick": self.quick,
            "extensions": list(self.extensions),
        }


def planned(request: Request, *, again: bool = False) -> dict[str, Any]:
    """The summary of a plan, see `summary`; made anew where settings, source or
    versions differ from all that are kept.

    again: makes it anew in any case. Raises `UserError` as the other process says.
    """
    kept = _kept(request)
    if kept is not None and not again:
        # One that cannot be read is made again.
        with contextlib.suppress(OSError, ValueError):
            return json.loads(kept.read_text())
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
    """Of what has a say in a compiled program, as far as it is installed."""
    found = {}
    for name in _COMPILERS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _made(request: Mapping[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = (
            pathlib.Path(folder, "request.json"),
            pathlib.Path(folder, "plan.json"),
        )
        asked.write_text(json.dumps(request))
        environment = {**os.environ, **_ENVIRONMENT}
        if machine(request["machine"]).platform == "gpu":
            flags = environment.get("XLA_FLAGS", "")
            environment["XLA_FLAGS"] = f"{flags} {_WITHOUT_A_GPU}".strip()
        paths = (str(_PACKAGE.parent), os.environ.get("PYTHONPATH", ""))
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        command = [sys.executable, "-m", "bnas_jax.plan", str(asked), str(answered)]
        # Whoever stops this process stops the other, too, which ends when its stdin is
        # closed.
        with subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=sys.stderr
        ) as process:
            try:
                code = process.wait()
            finally:
                process.kill()
        if not answered.is_file():
            raise UserError(
                f"the process that compiles for {request['machine']} ended with {code} "
                "before it was done;"
                " where that is -9, memory was short: close other programs"
            )
        result = json.loads(answered.read_text())
    if "error" in result:
        raise UserError(result["error"])
    return result


def _kept(request: Request) -> pathlib.Path | None:
    """Where the plan is kept; None without a directory for it, and of data or a teacher
    on disk, which may change.
    """
    dataset = request.run.dataset.name
    if dataset not in SIZES and dataset != "digits":
        return None
    if (
        isinstance(request.run, TrainSettings)
        and request.run.teacher.workdir is not None
    ):
        return None
    try:
        folder = user_cache() / "bnas_jax" / "plans"
    except (OSError, RuntimeError):
        return None
    names = [name for name in os.environ if name.startswith("JAX_") or name in _FLAGS]
    asked = {
        **request.to_dict(),
        "versions": {**versions(), "python": sys.version},
        "environment": {name: os.environ[name] for name in sorted(names)},
        "source": _source(request.extensions),
    }
    text = json.dumps(asked, sort_keys=True)
    return folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def _source(extensions: tuple[str, ...]) -> str:
    """A hash of the package's files and of the extensions."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(str(path.relative_to(_PACKAGE)).encode())
        digest.update(path.read_bytes())
    for file in extensions:
        digest.update(pathlib.Path(file).read_bytes())
    return digest.hexdigest()
