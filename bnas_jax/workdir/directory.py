"""A run's directory, for those who read it: config.json, run.json, metrics.jsonl, alphas.npz, summary.json, checkpoints/."""

import contextlib
import json
import os
import pathlib

from bnas_jax import __version__
from bnas_jax.core import paths
from bnas_jax.core.errors import UserError

# Of the settings and the checkpoints in a work directory; 1 had other names and no number, the states of 2 no seed.
FORMAT = 3
_VERSIONS = {1: "0.1.0", 2: "0.2.0"}


class RunDirectory:
    """What a run left in its directory. Raises `UserError` where that is no work directory, damaged or of another version."""

    def __init__(self, path: str | os.PathLike):
        self.path = paths.local(path, "--workdir").absolute()

    def __truediv__(self, name: str) -> pathlib.Path:
        return self.path / name

    @property
    def checkpoints(self) -> pathlib.Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

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

    def facts(self) -> dict:
        """What `open` noted of the run: the values of `data.facts.Facts` that are known, the environment, and perhaps init."""
        values = self._read("run.json")
        if not isinstance(values.get("num_classes"), int) or not isinstance(
            values.get("image_shape"), list
        ):
            raise UserError(
                f"{self / 'run.json'} lacks num_classes or image_shape; restore it or choose another --workdir"
            )
        return values

    def _read(self, name: str) -> dict:
        try:
            value = json.loads((self / name).read_text())
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(
                f"{self.path} is no work directory: it has no {name}; name one that search or train wrote"
            ) from None
        except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
            reason = str(error)
            if isinstance(error, OSError):
                reason = error.strerror or reason
            elif isinstance(error, UnicodeDecodeError):
                reason = "it is no text"
            raise UserError(
                f"{self / name} cannot be read ({reason}); restore it or choose another --workdir"
            ) from None
        if not isinstance(value, dict):
            raise UserError(
                f"{self / name} holds no JSON object; restore it or choose another --workdir"
            )
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
