"""Genotypes that are read: the cells that come with the package, files, and texts of
the DARTS family.
"""

import json
import pathlib
import reprlib
from collections.abc import Mapping

from bnas_jax.core import paths
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import INPUTS, NODES, Genotype
from bnas_jax.core.genotypes import text as text_lib

# Beside the cells: which nodes the output joins; how a search took the genotype (its
# genotype.json); where a named one is from.
_CONCATENATIONS = ("normal_concat", "reduce_concat")
_NOTES = (
    "select",
    "alphas_as_of",
    "epoch",
    "derivation",
    "gamma",
    "keep_zeroise",
    "valid_top1",
    "source",
    "without_zeroise",
)


def from_dict(value) -> Genotype:
    """The genotype in a parsed JSON object, {"normal", "reduce", ...}; `UserError` for
    what is missing, unknown or not built here.
    """
    if not isinstance(value, Mapping):
        raise UserError(
            'genotype: expected a JSON object with the keys "normal" and "reduce"'
        )
    missing = [name for name in ("normal", "reduce") if name not in value]
    if missing:
        raise UserError(
            f"genotype: it lacks {' and '.join(missing)}; a genotype has normal and "
            "reduce, a cell each"
        )
    known = ("normal", "reduce", *_CONCATENATIONS, *_NOTES)
    for key in value:
        if key not in known:
            raise UserError(
                f"genotype: unknown key {reprlib.repr(key)}; leave it out; known: "
                f"{', '.join(known)}"
            )
    for key in _CONCATENATIONS:
        if key in value:
            _check_concatenation(value[key], key)
    return Genotype(normal=value["normal"], reduce=value["reduce"])


def _check_concatenation(nodes, key: str) -> None:
    """The output joins all four nodes, in the order of their numbers, in whatever order
    they are named.
    """
    expected = list(range(INPUTS, INPUTS + NODES))
    found = []
    if isinstance(nodes, (list, tuple, range)):
        # Cut off, as a range of a file can be as long as it likes.
        found = list(nodes[: NODES + 1])
    if any(type(node) is not int for node in found) or sorted(found) != expected:
        raise UserError(
            f"genotype: {key} must be {expected}, all nodes of a cell: no other output "
            f"is built; got {reprlib.repr(nodes)}"
        )


def from_text(text: str) -> Genotype:
    """The genotype in a JSON text, or in Genotype(normal=..., ...) as the DARTS family
    prints it; `UserError` if it is none.
    """
    return from_dict(text_lib.parse(text))


_NAMED = pathlib.Path(__file__).parent


def named() -> tuple[str, ...]:
    """The names of the cells that come with the package."""
    return tuple(sorted(path.stem for path in _NAMED.glob("*.json")))


def load(name_or_path: str) -> Genotype:
    """The genotype of that name (see `named`), of a file or a search's work directory,
    or in the text itself (`from_text`).

    Raises `UserError` where there is none, or it cannot be read.

    >>> genotype = bnas.load_genotype("latest_cell")
    >>> genotype.normal[0]
    (('bin_conv_3x3', 1), ('bin_dil_conv_3x3', 0))
    """
    if name_or_path in named():
        return from_text((_NAMED / f"{name_or_path}.json").read_text())
    if text_lib.is_printed(name_or_path):
        return from_text(name_or_path)
    try:
        return from_text(_file(name_or_path).read_text("utf-8-sig"))
    except UnicodeDecodeError:
        raise UserError(
            f"genotype: cannot read {name_or_path}, which is no text; name a search's "
            "genotype.json"
        ) from None
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"genotype: cannot read {name_or_path} ({reason})") from None


def _file(name: str) -> pathlib.Path:
    """The file of a path: itself, or genotype.json in a work directory; `UserError`
    where there is none.
    """
    if not name:
        raise UserError(
            "genotype: it has no name; write a file or a named cell: "
            f"{', '.join(named())}"
        )
    path = paths.local(name, "genotype")
    if path.is_dir():
        path = path / "genotype.json"
        if not path.is_file():
            raise UserError(
                f"genotype: {name} holds no genotype.json, which a search writes at "
                "its end; end it first"
            )
    if not path.is_file():
        raise UserError(
            f"genotype: {name!r} is neither a file nor a named cell; named: "
            f"{', '.join(named())}"
        )
    return path


def without_zeroise(name: str) -> str | None:
    """The name of the cell that comes of the same search as `name` with Zeroise left
    out at derivation, if there is one.
    """
    if name not in named():
        return None
    return json.loads((_NAMED / f"{name}.json").read_text()).get("without_zeroise")
