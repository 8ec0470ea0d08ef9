"""`draw`: draws cells, the epochs of a search, or the cell template."""

import pathlib
from collections.abc import Sequence

import numpy as np
from absl import flags

from bnas_jax import extensions
from bnas_jax.cli.flags import number, read_flags, required
from bnas_jax.core import genotypes, paths
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import Genotype
from bnas_jax.core.genotypes.text import is_printed
from bnas_jax.extensions import Extension
from bnas_jax.report import cells, template
from bnas_jax.report.sheet import FORMATS, Sheet, style
from bnas_jax.workdir import RunDirectory
from bnas_jax.workdir.files import file_to_write, followed, whole
from bnas_jax.workdir.history import read_history


def draw(arguments: list[str], loaded: Sequence[Extension]) -> dict:
    """Draws genotypes side by side, the epochs of a search, or the cell template."""
    values = _options(arguments)
    # The path is checked before anything is computed or drawn.
    out = required(values, "out", example="FILE.svg or FILE.png")
    path = file_to_write(out, FORMATS)
    with style():
        _save(_picture(values, loaded), path)
    return {"out": out}


def _options(arguments: list[str]) -> flags.FlagValues:
    """The options: the genotypes, the parts of them to draw, and the file."""
    values = flags.FlagValues()
    about = "cell, file or work directory"
    flags.DEFINE_multi_string("genotype", [], about, flag_values=values)
    about = "draws the cell template"
    flags.DEFINE_boolean("template", False, about, flag_values=values)
    flags.DEFINE_string("out", None, "file of the picture", flag_values=values)
    flags.DEFINE_string("strip", None, "number of epochs", flag_values=values)
    flags.DEFINE_boolean("zeroise", True, "draws Zeroise", flag_values=values)
    flags.DEFINE_boolean("skip", None, "draws the inter-cell skip", flag_values=values)
    read_flags(values, arguments, "draw")
    return values


def _picture(values: flags.FlagValues, loaded: Sequence[Extension]) -> Sheet:
    """The picture that the options describe.

    Raises `UserError` for options that contradict each other.
    """
    given: list[str] = values.genotype
    # The cell template has no genotype.
    if values.template:
        if given or values.strip is not None:
            raise UserError(
                "--template draws how cells follow each other; leave --genotype and "
                "--strip out"
            )
        return template.template()

    # Pictures of genotypes need at least one.
    if not given:
        named = ", ".join(genotypes.named())
        raise UserError(
            "--genotype is missing; write --genotype=NAME, FILE or a search's work "
            f"directory; names: {named}"
        )
    if values.strip is None:
        return side_by_side(given, zeroise=values.zeroise, skip=values.skip)

    # The epochs of a search.
    count = number(values, "strip", kind=int, least=2)
    if len(given) > 1:
        raise UserError("--strip draws the epochs of one search; write --genotype once")
    run_directory = _search(given[0])
    extensions.check(run_directory.path, loaded)
    frames = _frames(run_directory, count)
    skip = _has_skip(given[0], values.skip)
    return cells.strip(frames, zeroise=values.zeroise, skip=skip)


def draw_found_cell(workdir: pathlib.Path, out: pathlib.Path) -> None:
    """Draws the genotype in a search's work directory into the file `out`."""
    with style():
        _save(side_by_side([str(workdir)]), out)


def side_by_side(
    given: Sequence[str], *, zeroise: bool = True, skip: bool | None = None
) -> Sheet:
    """The picture of several genotypes.

    given: names, files, work directories or texts, as for `genotypes.load`.
    zeroise: whether Zeroise edges are drawn.
    skip: whether the inter-cell skip is drawn. None draws it as the run of a work
        directory has it, and for all other genotypes.
    """
    named = [(_title(text), genotypes.load(text)) for text in given]
    skips = [_has_skip(text, skip) for text in given]
    return cells.genotypes(named, zeroise=zeroise, skip=skips)


def _search(given: str) -> RunDirectory:
    """The work directory of a search; raises `UserError` for anything else."""
    if _is_text(given) or not paths.local(given, "--genotype").is_dir():
        raise UserError(
            "--strip draws the epochs of a search; write --genotype=DIR, its work "
            f"directory; got {given}"
        )
    # The directory of a training has no history of alpha.
    run_directory = RunDirectory(given)
    if run_directory.config().get("task") != "search":
        raise UserError(
            f"{given} contains no search; --strip takes the work directory of a search"
        )
    return run_directory


def _frames(run_directory: RunDirectory, count: int) -> list[tuple[str, Genotype]]:
    """(title, genotype) at `count` evenly spaced times of a search.

    The first is before epoch 0, the last after the last epoch; a shorter search gives
    all of its epochs. The searcher derives each genotype from alpha at that time.

    Raises `UserError` for a search without alphas.
    """
    # Only this picture needs a searcher, which loads JAX.
    from bnas_jax import settings
    from bnas_jax.runtime import jax_setup

    jax_setup.keep_to_host()
    run = settings.from_config(run_directory.config())
    assert isinstance(run, settings.SearchSettings)
    searcher = run.searcher.of(run.network)
    # A random search has no alphas.
    if not searcher.has_alphas:
        raise UserError(
            f"{run_directory.path} holds a search without alphas, which has no epochs "
            "to draw; leave --strip out"
        )

    # Row 0 of the history of alpha is before the first epoch, row i + 1 after epoch i.
    history = read_history(run_directory)
    accuracies = history["valid_top1"]  # (epochs,)
    last = len(accuracies)
    positions = np.linspace(0, last, num=min(count, last + 1))
    chosen = np.unique(positions.round().astype(int))

    # Derive a genotype from each chosen row.
    frames = []
    for row in chosen:
        when = "before epoch 0"
        if row:
            when = f"after epoch {row - 1}"
        alphas = {
            name: rows[row] for name, rows in history.items() if name != "valid_top1"
        }
        frames.append((when, searcher.derive(alphas)))
    return frames


def _save(sheet: Sheet, path: pathlib.Path) -> None:
    """Writes the picture to a file.

    If that fails, an earlier picture there is kept.
    """
    with whole(path) as part:
        sheet.save(part, path.suffix.lower())


def _title(given: str) -> str:
    """The title of a genotype: its name, or the name of its file or folder."""
    if given in genotypes.named():
        return given
    # The text of a genotype is too long for a title.
    if is_printed(given):
        return "genotype"
    path = followed(paths.local(given, "--genotype"))
    if path.name == "genotype.json":
        return path.parent.name
    return path.stem


def _has_skip(given: str, skip: bool | None) -> bool:
    """Whether the inter-cell skip is drawn with a genotype.

    This is `skip` if it is given, else the setting in a work directory, else True.
    """
    if skip is not None:
        return skip
    if _is_text(given):
        return True

    # `given` is the directory of a search, or the genotype.json in it.
    run_directory = RunDirectory(given)
    if run_directory.path.name == "genotype.json":
        run_directory = RunDirectory(run_directory.path.parent)
    if not run_directory.exists():
        return True
    return bool(run_directory.config().get("network", {}).get("skip", True))


def _is_text(given: str) -> bool:
    """Whether a genotype is given by a name or a text, and not by a path."""
    return given in genotypes.named() or is_printed(given)
