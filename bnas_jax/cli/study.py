"""`study`: runs several variants with several seeds, and writes their table."""

import importlib.util
import inspect
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bnas_jax import preset_files
from bnas_jax.cli.configs import Loaded, workdir_of
from bnas_jax.cli.flags import mistakes, options, required
from bnas_jax.core import paths
from bnas_jax.core.errors import UserError

if TYPE_CHECKING:
    from bnas_jax.study import Study
    from bnas_jax.training.workdir import WorkDir

EXAMPLE = "configs/studies.py:VARIANT"


def study(arguments: list[str], loaded: Loaded) -> dict:
    """Runs what is missing of a study, and writes its table."""
    from bnas_jax.study import run_study

    values = options(arguments, "study", "study", "workdir", "rows")
    chosen = study_of(required(values, "study", example=EXAMPLE))
    rows = row_names(values.rows)
    given = required(values, "workdir", example="DIR")
    folder = paths.local(given, "--workdir").absolute()
    return run_study(chosen, folder, only=rows, open_workdir=opening(loaded))


def opening(loaded: Loaded) -> Callable[[pathlib.Path], "WorkDir"]:
    """A function (path) -> work directory; runs in it note the loaded extensions."""
    return lambda path: workdir_of(str(path), loaded)


def row_names(given: str | None) -> tuple[str, ...]:
    """The names in --rows; () for all rows, if --rows is not given."""
    if given is None:
        return ()
    rows = tuple(row.strip() for row in given.split(",") if row.strip())
    if not rows:
        raise UserError(
            "--rows names no row; write names between commas, or leave it out for all"
        )
    return rows


def study_of(given: str) -> "Study":
    """The study of FILE.py:VARIANT; raises `UserError` for a file without studies."""
    from bnas_jax.study import Study

    name, _, variant = given.partition(":")
    path = preset_files.find(name, "--study", example=EXAMPLE)
    # The file may be a user's, so that any error is possible.
    with mistakes(path, function="get_study"):
        get_study = module_of(path, name).get_study
        # Like get_config, it may take no variant.
        needed = variant or inspect.signature(get_study).parameters
        chosen = get_study(variant) if needed else get_study()
    if not isinstance(chosen, Study):
        found = type(chosen).__name__
        raise UserError(
            f"get_study({variant!r}) of {path} gives a {found}, not a "
            "bnas_jax.study.Study"
        )
    return chosen


def module_of(path: pathlib.Path, name: str, *, option: str = "--study") -> Any:
    """Runs a Python file; returns its module.

    name, option: the value and the option that named the file, for the error.
    """
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise UserError(
            f"{option}={name} is not a Python file; write {option}={EXAMPLE}"
        )
    # Load it by its path, because configs/ is not a package.
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
