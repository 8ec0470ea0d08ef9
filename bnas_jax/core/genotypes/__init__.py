"""Reading genotypes.

They are read from the cells in this package, from files, and from text in the form that
the code of DARTS and its successors prints.
"""

import json
import pathlib
import reprlib
from collections.abc import Mapping

from bnas_jax.core import paths
from bnas_jax.core.errors import UserError, shown
from bnas_jax.core.genotype import INPUTS, NODES, Genotype
from bnas_jax.core.genotypes import text as text_lib

# Keys besides the cells: which nodes the output concatenates.
_CONCATENATIONS = ("normal_concat", "reduce_concat")
# Keys besides the cells: how a search derived the genotype (in its genotype.json), or
# where a named cell comes from.
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
    """The genotype in a parsed JSON object, {"normal", "reduce", ...}.

    Raises `UserError` for keys that are missing or unknown, and for cells that this
    package cannot build.
    """
    # An object with the right keys.
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

    # The cells, and the nodes that their outputs concatenate.
    for key in _CONCATENATIONS:
        if key in value:
            _check_concatenation(value[key], key)
    return Genotype(normal=value["normal"], reduce=value["reduce"])


def _check_concatenation(nodes, key: str) -> None:
    """Raises `UserError` unless `nodes` are the four nodes of a cell.

    Their order does not matter: the output concatenates them in the order of their
    numbers.
    """
    expected = list(range(INPUTS, INPUTS + NODES))
    found = []
    if isinstance(nodes, (list, tuple, range)):
        # Cut off, since a range in a file may be very long.
        found = list(nodes[: NODES + 1])
    if any(type(node) is not int for node in found) or sorted(found) != expected:
        raise UserError(
            f"genotype: {key} must be {expected}, all nodes of a cell: no other output "
            f"is built; got {reprlib.repr(nodes)}"
        )


def from_text(text: str) -> Genotype:
    """The genotype in a text; raises `UserError` if the text is not a genotype.

    The text is JSON, or Genotype(normal=..., ...) as DARTS's code prints it.
    """
    return from_dict(text_lib.parse(text))


_NAMED = pathlib.Path(__file__).parent


def named() -> tuple[str, ...]:
    """The names of the cells that come with the package."""
    return tuple(sorted(path.stem for path in _NAMED.glob("*.json")))


def load(name_or_path: str | pathlib.PurePath) -> Genotype:
    """The genotype of a name, a file, a search's work directory or a text.

    The names are those of `named`. In a work directory, genotype.json is read. For
    texts see `from_text`.

    Raises `UserError` if there is no genotype, or if it cannot be read.

    >>> genotype = bnas.load_genotype("latest_cell")
    >>> genotype.normal[0]
    (('bin_conv_3x3', 1), ('bin_dil_conv_3x3', 0))
    """
    if not isinstance(name_or_path, (str, pathlib.PurePath)):
        raise UserError(
            "genotype: load_genotype takes a name, a path or a text, got "
            f"{shown(name_or_path)}"
        )
    name = str(name_or_path)
    if name in named():
        return from_text((_NAMED / f"{name}.json").read_text())
    if text_lib.is_text(name):
        return from_text(name)

    # A file, which may begin with a byte order mark.
    try:
        path = _file(name)
        data = path.read_bytes()
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"genotype: cannot read {name} ({reason})") from None
    try:
        value = text_lib.parse(data.decode("utf-8-sig"))
    except (UnicodeDecodeError, UserError) as error:
        # The file of a search, perhaps half-written.
        if path.name == "genotype.json" and path.with_name("config.json").is_file():
            raise UserError(
                f"genotype: {path} is damaged; the command that made the search, run "
                "again with its --workdir, rewrites it"
            ) from None
        if isinstance(error, UserError):
            raise _of_file(error, path) from None
        raise UserError(
            f"genotype: cannot read {name}, which is not text; name a search's "
            "genotype.json"
        ) from None
    try:
        return from_dict(value)
    except UserError as error:
        raise _of_file(error, path) from None


def _of_file(error: UserError, path: pathlib.Path) -> UserError:
    """The error about a genotype, with the file that it was read from."""
    # A command may read several.
    reason = str(error).removeprefix("genotype: ")
    return UserError(f"genotype: {path}: {reason}")


def _file(name: str) -> pathlib.Path:
    """The file of a path: itself, or genotype.json in a work directory.

    Raises `UserError` if there is no such file.
    """
    if not name:
        raise UserError(
            "genotype: the name is empty; write a file or a named cell: "
            f"{', '.join(named())}"
        )
    path = paths.local(name, "genotype")
    if path.is_dir():
        folder, path = path, path / "genotype.json"
        if not path.is_file():
            raise UserError(f"genotype: {name} contains no {path.name}, {_why(folder)}")
    if not path.is_file():
        raise UserError(
            f"genotype: {name!r} is neither a file nor a named cell; named: "
            f"{', '.join(named())}"
        )
    return path


def _why(folder: pathlib.Path) -> str:
    """Why a folder has no genotype.json, as the end of a sentence."""
    try:
        task = json.loads((folder / "config.json").read_text())["task"]
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        task = None
    if task == "train":
        return "as it holds a training; name the work directory of a search"
    return "which a search writes at its end; end it first"


def without_zeroise(name: str) -> str | None:
    """The named cell of the same search as `name`, derived without Zeroise.

    None if there is no such cell.
    """
    if name not in named():
        return None
    value = json.loads((_NAMED / f"{name}.json").read_text())
    return value.get("without_zeroise")
