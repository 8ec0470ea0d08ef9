"""`draw`: pictures of cells, of the cell template, and of how a search came to its cell."""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np
from absl import flags

from bnas_jax import extensions
from bnas_jax.cli.flags import number, read_flags, required
from bnas_jax.core import genotype as genotype_lib
from bnas_jax.core import genotype_text, paths
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import Genotype
from bnas_jax.extensions import Extension
from bnas_jax.report import cells, template
from bnas_jax.report.sheet import FORMATS, Sheet, style
from bnas_jax.workdir import RunDirectory
from bnas_jax.workdir.files import whole


def draw(arguments: list[str], loaded: Sequence[Extension]) -> dict:
    """Draws genotypes side by side, the epochs of a search, or the cell template."""
    values = flags.FlagValues()
    flags.DEFINE_multi_string("genotype", [], "named cells, files or work directories", flag_values=values)
    flags.DEFINE_string("out", None, "file of the picture", flag_values=values)
    flags.DEFINE_string("strip", None, "number of epochs", flag_values=values)
    flags.DEFINE_boolean("template", False, "draws the cell template", flag_values=values)
    flags.DEFINE_boolean("zeroise", True, "draws Zeroise", flag_values=values)
    flags.DEFINE_boolean("skip", None, "draws the inter-cell skip", flag_values=values)
    read_flags(values, arguments, "draw")

    out = required(values, "out")
    path = _picture_file(out)
    given = values.genotype
    if values.template and (given or values.strip is not None):
        raise UserError("--template draws how cells follow each other; leave --genotype and --strip out")
    if not values.template and not given:
        named = ", ".join(genotype_lib.named())
        raise UserError(f"--genotype is missing; write --genotype=NAME, FILE or a search's work directory; names: {named}")
    with style():
        if values.template:
            sheet = template.template()
        elif values.strip is not None:
            sheet = _strip(given, number(values, "strip", int), loaded, zeroise=values.zeroise, skip=values.skip)
        else:
            sheet = side_by_side(given, zeroise=values.zeroise, skip=values.skip)
        _save(sheet, path)
    return {"out": out}


def draw_found_cell(workdir: pathlib.Path, out: pathlib.Path) -> None:
    """Draws the genotype in a search's work directory."""
    with style():
        _save(side_by_side([str(workdir)]), out)


def side_by_side(given: Sequence[str], *, zeroise: bool = True, skip: bool | None = None) -> Sheet:
    """The picture of genotypes as `genotype.load` takes them. skip: None is what the run in a work directory has, or else
    True."""
    named = [(_title(text), genotype_lib.load(text)) for text in given]
    skips = [_has_skip(text, skip) for text in given]
    return cells.genotypes(named, zeroise=zeroise, skip=skips)


def _strip(given: Sequence[str], count: int, loaded: Sequence[Extension], *, zeroise: bool, skip: bool | None) -> Sheet:
    if count is None or count < 1:
        raise UserError(f"--strip must be at least 1, the number of epochs to draw; got {count}")
    if len(given) > 1:
        raise UserError("--strip draws the epochs of one search; write --genotype once")
    workdir = given[0]
    if workdir in genotype_lib.named() or genotype_text.is_printed(workdir) or not paths.local(workdir, "--genotype").is_dir():
        raise UserError(f"--strip draws the epochs of a search; write --genotype=DIR, its work directory; got {workdir}")
    frames = _frames(workdir, count, loaded)
    return cells.strip(frames, zeroise=zeroise, skip=_has_skip(workdir, skip))


def _frames(path: str, count: int, loaded: Sequence[Extension]) -> list[tuple[str, Genotype]]:
    """(when, what its searcher derived from alpha then) at that many epochs of a search, the first and the last among them."""
    run_directory = RunDirectory(path)
    if run_directory.config().get("task") != "search":
        raise UserError(f"{run_directory.path} holds no search; --strip takes the work directory of a search")
    extensions.check(run_directory.path, tuple(loaded))
    # Searchers need jax, all other pictures do without.
    from bnas_jax import settings
    from bnas_jax.runtime import devices
    from bnas_jax.training.derive import read_history

    history = read_history(run_directory)
    run = settings.from_config(run_directory.config())
    searcher = dataclasses.replace(run.searcher, layer_types=run.network.layer_types)
    devices.keep_to_host()
    names = [name for name in history if name != "valid_top1"]
    last = len(history["valid_top1"])
    frames = []
    for row in np.unique(np.linspace(0, last, min(count, last + 1)).round().astype(int)):
        when = "before epoch 0"
        if row:
            when = f"after epoch {row - 1}"
        frames.append((when, searcher.derive({name: history[name][row] for name in names})))
    return frames


def _picture_file(out: str) -> pathlib.Path:
    """The path of --out; `UserError` where no picture can be written there."""
    path = paths.local(out, "--out")
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"--out={out} is no picture that can be drawn; write a name that ends in {' or '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise UserError(f"--out={out}: there is no folder {path.parent}; make it, or choose another --out")
    if path.is_dir():
        raise UserError(f"--out={out} is a folder; write the name of a file")
    return path


def _save(sheet: Sheet, path: pathlib.Path) -> None:
    with whole(path) as part:
        sheet.save(part, path.suffix.lower())


def _title(given: str) -> str:
    """What a genotype is called in a picture: its name, or that of its file or folder."""
    if given in genotype_lib.named():
        return given
    if genotype_text.is_printed(given):
        return "genotype"
    path = paths.local(given, "--genotype").resolve()
    if path.name == "genotype.json":
        return path.parent.name
    return path.stem


def _has_skip(given: str, skip: bool | None) -> bool:
    """Whether the network of a genotype has inter-cell skip connections, where `skip` does not say."""
    if skip is not None:
        return skip
    if given in genotype_lib.named() or genotype_text.is_printed(given):
        return True
    run_directory = RunDirectory(given)
    if run_directory.path.name == "genotype.json":
        run_directory = RunDirectory(run_directory.path.parent)
    if not run_directory.exists():
        return True
    return bool(run_directory.config().get("network", {}).get("skip", True))
