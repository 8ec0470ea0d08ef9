"""The file of a packed network, a .safetensors file.

Its header has the settings, the facts about the data and the shapes as JSON, a hash of
the arrays, and one of the header itself. Its arrays are named by the path of their
module:

- `params/...` and `batch_stats/...`: as they are trained.
- `packed/.../bits`: the weights of a binary convolution, one bit a weight (1 is -1), in
  the order of (kh, kw, C / groups, O), the first weight lowest in its byte.
- `packed/.../operand0` and so on: what its scheme makes of the latent weights.

Nothing in a file is run.
"""

import itertools
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from bnas_jax import __version__
from bnas_jax.core.convolution import PACKED
from bnas_jax.core.errors import UserError
from bnas_jax.core.ops.packed import Kernel, pack_signs, signs_of
from bnas_jax.data.digest import digest_of
from bnas_jax.workdir.fact_checks import misfit
from bnas_jax.workdir.files import whole

# The version of the format; a file of another one is refused.
FORMAT = 1
# The entry of the file's metadata that has the header.
_HEADER = "bnas_jax_packed"
# The entry of the header that has the hash of all others. It is no second entry of the
# metadata, as safetensors writes several in an order that differs from file to file.
_HEADER_HASH = "header_sha256"
# What a damaged header or array raises where it is read.
_DAMAGE = (
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    IndexError,
    OverflowError,
    RecursionError,
)


class PackedFile(NamedTuple):
    """What is in a file."""

    # Of the training, as `settings.to_dict` gives them.
    settings: Mapping
    # Of its data, see `data.facts`.
    facts: Mapping
    # As `pack` makes them.
    variables: Mapping
    # The files of a user's entries that the network needs, {"file", "sha256"} each.
    extensions: tuple[Mapping, ...] = ()
    # The version of this package that wrote the file.
    version: str = __version__


def write(path: pathlib.Path, content: PackedFile) -> None:
    """Writes a file, whole or not at all."""
    from safetensors.numpy import save

    # Name -> array; and for each packed convolution the shape of its kernel.
    arrays: dict[str, np.ndarray] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for keys, value in flatten_dict(dict(content.variables)).items():
        *module, leaf = keys
        name = "/".join(module)
        if isinstance(value, Kernel):
            # The words in memory are padded; the bits of a file are not.
            on_host = value.replace(words=np.asarray(value.words))
            signs = signs_of(on_host, np.int8)  # [kh, kw, C / groups, O]
            arrays[f"{name}/bits"] = np.packbits(signs.ravel() < 0, bitorder="little")
            shapes[name] = value.shape
        elif leaf == "operands":
            for number, operand in enumerate(value):
                arrays[f"{name}/operand{number}"] = _in_order(operand)
        else:
            arrays[f"{name}/{leaf}"] = _in_order(value)

    header = {
        "format": FORMAT,
        "bnas_jax": content.version,
        "settings": content.settings,
        "facts": content.facts,
        "extensions": list(content.extensions),
        "shapes": shapes,
        "sha256": _hash_of(arrays),
    }
    header[_HEADER_HASH] = _hash_of_header(header)
    with whole(path) as part:
        part.write_bytes(save(arrays, metadata={_HEADER: json.dumps(header)}))


def _in_order(array) -> np.ndarray:
    """The array with its last axis contiguous, because safetensors writes the memory.

    A transposed array is stored otherwise, and a GPU may store kernels otherwise.
    """
    return np.asarray(array, order="C")


def read(path: pathlib.Path) -> PackedFile:
    """Reads a file.

    Raises `UserError` for one that `export` did not write, a damaged one, or a newer
    version's. Whether its arrays are those of the network is checked by
    `load.model_of`, which builds the network.
    """
    header, arrays = _header_and_arrays(path)
    if isinstance(header, dict) and header.get("format") != FORMAT:
        raise UserError(
            f"{path} has the format {header.get('format')} of bnas-jax "
            f"{header.get('bnas_jax')}; this is {__version__}, which reads format "
            f"{FORMAT}: use that version, or export it again"
        )

    # Any other surprise in a header or an array means that the file is damaged.
    try:
        _check_header(header)
        _check_hashes(header, arrays)
        return PackedFile(
            settings=header["settings"],
            facts=header["facts"],
            variables=_variables(arrays, header["shapes"]),
            extensions=tuple(header["extensions"]),
            version=str(header.get("bnas_jax")),
        )
    except _DAMAGE as error:
        message = " ".join(str(error).split())
        raise UserError(f"{path} is damaged ({message}); export it again") from None


def _check_hashes(header: Mapping, arrays: Mapping[str, np.ndarray]) -> None:
    """Raises `ValueError` for a header or arrays of other hashes than the header's.

    Files of earlier versions lack one, or both.
    """
    if _HEADER_HASH in header and header[_HEADER_HASH] != _hash_of_header(header):
        raise ValueError("its header is not the one that export wrote")
    if "sha256" in header and header["sha256"] != _hash_of(arrays):
        raise ValueError("its arrays are not those that export wrote")


def _hash_of(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of the names and arrays, in the order of the names."""
    return digest_of(*itertools.chain.from_iterable(sorted(arrays.items())))


def _hash_of_header(header: Mapping) -> str:
    """SHA-256 of all entries but the hash itself, as JSON."""
    others = {name: value for name, value in header.items() if name != _HEADER_HASH}
    return digest_of(json.dumps(others))


def _check_header(header: Any) -> None:
    """Raises `ValueError` for a header that lacks something, or has another kind."""
    # The entries of the header.
    kinds = {"settings": dict, "facts": dict, "shapes": dict, "extensions": list}
    for name, kind in kinds.items():
        _require(isinstance(header, dict) and isinstance(header.get(name), kind), name)
    are_entries = all(isinstance(entry, dict) for entry in header["extensions"])
    _require(are_entries, "extensions")

    # The facts that `predict` and `evaluate` rely on.
    unfit = misfit(header["facts"])
    _require(unfit is None, str(unfit))


def _require(fits: bool, name: str) -> None:
    """Raises `ValueError` about the entry of that name where it does not fit."""
    if not fits:
        raise ValueError(f"its header has no {name} that fits")


def _header_and_arrays(path: pathlib.Path) -> tuple[Any, dict[str, np.ndarray]]:
    """Reads a file: (its header, its arrays by name).

    Raises `UserError` for a path without a file, and for a file of another kind.
    """
    # Imported where it is used: a run needs none of it.
    from safetensors import SafetensorError, safe_open

    # There must be a file.
    if (path / "config.json").is_file():
        raise UserError(
            f"{path} is a work directory; write the file by: python -m bnas_jax export "
            f"--workdir={path} --out=FILE"
        )
    if path.is_dir():
        raise UserError(f"{path} is a folder; name the file that export wrote")
    if not path.is_file():
        raise UserError(
            f"there is no file {path}; write one by: python -m bnas_jax export "
            f"--workdir=DIR --out={path}"
        )

    # It must be a .safetensors file, and whole.
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            names = list(file.keys())
            arrays = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} is not a packed network, or an incomplete one ({error}); write "
            "one by export with --format=packed"
        ) from None

    # It must be one of this package: its metadata has the header.
    if _HEADER not in metadata:
        raise UserError(
            f"{path} is not a packed network of this package, but other arrays; write "
            "one by export, or load it by import"
        )
    try:
        return json.loads(metadata[_HEADER]), arrays
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}); export it again") from None


def _variables(arrays: Mapping[str, np.ndarray], shapes: Mapping) -> dict:
    """The variables of a packed network from the arrays of its file.

    shapes: module -> shape of its kernel.

    Raises `ValueError` or `KeyError` for arrays that do not fit.
    """
    leaves: dict[tuple[str, ...], Any] = {}
    # Path of a convolution -> its operands by their numbers.
    operands: dict[tuple[str, ...], dict[int, np.ndarray]] = {}
    for name, array in arrays.items():
        *module, leaf = name.split("/")
        path = tuple(module)
        # What is trained has a gradient; only a scheme's operands may be whole numbers.
        if path[0] == "params" and not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(
                f"the numbers of {name} are {array.dtype}, not floating-point ones"
            )
        # All arrays but those of packed convolutions are leaves as they are.
        if path[0] != PACKED:
            leaves[(*path, leaf)] = array
        elif leaf == "bits":
            shape = tuple(shapes["/".join(module)])
            leaves[(*path, "kernel")] = _kernel(array, shape)
            operands.setdefault(path, {})
        else:
            number = int(leaf.removeprefix("operand"))
            operands.setdefault(path, {})[number] = array

    # A convolution's operands are one tuple, in order.
    for path, numbered in operands.items():
        in_order = tuple(numbered[number] for number in sorted(numbered))
        leaves[(*path, "operands")] = in_order
    return {"batch_stats": {}, **unflatten_dict(leaves)}


def _kernel(bits: np.ndarray, shape: tuple[int, ...]) -> Kernel:
    """A kernel of that shape from its bits in a file.

    shape: (kh, kw, C / groups, O).
    """
    size = math.prod(shape)
    length = -(-size // 8)  # bytes, rounded up
    if bits.dtype != np.uint8 or bits.shape != (length,):
        raise ValueError(
            f"{size} weights of a kernel need {length} bytes, got {bits.dtype} "
            f"{bits.shape}"
        )
    negative = np.unpackbits(bits, count=size, bitorder="little")  # [size], 0 or 1
    signs = 1 - 2 * negative.astype(np.int8)  # [size], -1 or 1
    return pack_signs(signs.reshape(shape))
