"""Reads the work directory of a run.

It has config.json, run.json, metrics.jsonl, alphas.npz, summary.json and checkpoints/.
"""

import json
import os
import pathlib

from bnas_jax import __version__
from bnas_jax.core import paths
from bnas_jax.core.errors import UserError
from bnas_jax.workdir.fact_checks import misfit

# The format of the settings and the checkpoints in a work directory. Format 1 had other
# names of settings, and no number of the format; in format 2, states had no seed.
FORMAT = 3
# The file that the command `gradients` writes.
GRADIENTS = "gradients.json"

# A JSON file that a command can write again -> the advice if it is damaged.
_ANEW = {
    "summary.json": (
        "the command that made the run, run again with this --workdir, rewrites it"
    ),
    GRADIENTS: "the command gradients, run again with this --workdir, rewrites it",
}


class RunDirectory:
    """The files that a run has written.

    The methods raise `UserError` if the directory contains no run, is damaged, or is of
    another version.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = paths.local(path, "--workdir").absolute()

    def __truediv__(self, name: str) -> pathlib.Path:
        return self.path / name

    @property
    def checkpoints(self) -> pathlib.Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    def exists(self) -> bool:
        """Whether the directory holds a run."""
        return (self / "config.json").is_file()

    def config(self) -> dict:
        """The run's resolved settings; raises `UserError` if there are none."""
        self._check_format()
        values = self._read("config.json")
        # The history of changes is not a setting, see `changed`.
        values.pop("changed", None)
        return values

    def _check_format(self) -> None:
        """Raises `UserError` for a directory of another format.

        There, settings and parameters have other names.
        """
        # run.json has the format. Without it, `facts` raises the error.
        if not (self / "run.json").is_file():
            return
        found = self._read("run.json").get("format", 1)
        if found != FORMAT:
            raise UserError(
                f"{self.path} was written by another version of bnas-jax, in the "
                f"format {found}; {__version__} reads {FORMAT}: choose another "
                "--workdir"
            )

    def changed(self) -> list[dict]:
        """The changes of the run's settings in order: {"step", "key", "from", "to"}."""
        return self._read("config.json").get("changed", [])

    def summary(self) -> dict | None:
        """summary.json, the result of a run; None if the run has not finished."""
        if not (self / "summary.json").is_file():
            return None
        return self._read("summary.json")

    def gradients(self) -> dict | None:
        """gradients.json, see `training.gradients`; None if it does not exist."""
        if not (self / GRADIENTS).is_file():
            return None
        return self._read(GRADIENTS)

    def facts(self) -> dict:
        """run.json: facts about the run and its data.

        It has the known values of `data.facts.Facts`, "environment", and perhaps
        "init", "teacher" and "extensions".
        """
        values = self._read("run.json")
        name = misfit(values)
        if name is not None:
            raise UserError(
                f"{self / 'run.json'} has no {name} that fits; restore it or choose "
                "another --workdir"
            )
        return values

    def _read(self, name: str) -> dict:
        """The contents of a JSON file.

        Raises `UserError` if it is missing, cannot be read, or contains no object.
        """
        advice = _ANEW.get(name, "restore it or choose another --workdir")
        try:
            value = json.loads((self / name).read_text())
        except (FileNotFoundError, NotADirectoryError):
            # run.json is written before config.json. If only config.json is there,
            # run.json has been lost.
            if name == "run.json" and self.exists():
                raise UserError(
                    f"{self.path} has lost its {name}; restore it or choose another "
                    "--workdir"
                ) from None
            raise UserError(self._no_run(name)) from None
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(
                f"{self / name} cannot be read ({_reason_of(error)}); {advice}"
            ) from None
        if not isinstance(value, dict):
            raise UserError(f"{self / name} contains no JSON object; {advice}")
        return value

    def _no_run(self, name: str) -> str:
        """The message for a directory without the file `name` of a run."""
        # Perhaps the folder of several runs, or of a study: ROW/SEED/train.
        for pattern in ("*/run.json", "0/*/run.json", "*/0/*/run.json"):
            found = min(self.path.glob(pattern), default=None)
            if found is not None:
                return (
                    f"{self.path} is not a work directory, but holds some; name one, "
                    f"such as {found.parent}"
                )
        return (
            f"{self.path} is not a work directory: it has no {name}; name one that "
            "search or train wrote"
        )

    def read_metrics(self) -> list[dict]:
        """The records of metrics.jsonl, without damaged or incomplete lines."""
        path = self / "metrics.jsonl"
        if not path.is_file():
            return []
        records = []
        for line in path.read_text(errors="replace").splitlines():
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            # An incomplete line may be valid JSON, such as a number.
            if isinstance(record, dict) and isinstance(record.get("step"), int):
                records.append(record)
        return records


def _reason_of(error: Exception) -> str:
    """Why a JSON file cannot be read, in words that help a user."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, UnicodeDecodeError):
        return "it is not text"
    # This message has the position of the error.
    if isinstance(error, json.JSONDecodeError):
        return str(error)
    if isinstance(error, ValueError):
        return "a number has too many digits"
    return str(error)
