"""`study`: many runs over seeds, and the table of their results."""

import importlib.util
from typing import Any

from bnas_jax import preset_files
from bnas_jax.cli.configs import Loaded
from bnas_jax.cli.flags import mistakes, options, required
from bnas_jax.core import paths
from bnas_jax.core.errors import UserError

EXAMPLE = "configs/studies.py:VARIANT"


def study(arguments: list[str], loaded: Loaded) -> dict:
    """Makes the runs of a study that are not finished yet, and its table."""
    from bnas_jax.study import run_study

    del loaded
    values = options(arguments, "study", "study", "workdir", "rows")
    name, _, variant = required(values, "study").partition(":")
    # A user's file, which may raise anything.
    with mistakes():
        chosen = _python_file(name).get_study(variant)
    written = (values.rows or "").split(",")
    rows = tuple(row for row in written if row)
    folder = paths.local(required(values, "workdir"), "--workdir").absolute()
    return run_study(chosen, folder, only=rows)


def _python_file(name: str) -> Any:
    """The module in a file of configs/."""
    path = preset_files.find(name, "--study", example=EXAMPLE)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UserError(f"--study={name} is no file of Python; write --study={EXAMPLE}")
    # By its path, as configs/ is no package.
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
