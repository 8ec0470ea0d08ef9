"""Reads checkpoint files of other programs, without running code in them."""

import pathlib
import tokenize
import zipfile
import zlib
from typing import Any

import numpy as np

from bnas_jax.core import paths
from bnas_jax.core.errors import UserError

# The errors that NumPy and zipfile raise for damaged files.
_DAMAGED = (
    ValueError,
    TypeError,
    OverflowError,
    OSError,
    EOFError,
    RuntimeError,
    SyntaxError,
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,
)
# The possible ends of a checkpoint's file name.
SUFFIXES = (".pt", ".pth", ".pth.tar", ".npz", ".safetensors")


def read(path: str) -> dict[str, np.ndarray]:
    """Reads a .npz, .safetensors or PyTorch file: {name: array of real numbers}.

    Raises `UserError` for any other file, or a damaged one.
    """
    # Read the file according to its suffix.
    file = paths.local(path, "--checkpoint")
    if not file.is_file():
        raise UserError(
            f"there is no checkpoint {path}; give --checkpoint a file "
            f"({', '.join(SUFFIXES)})"
        )
    if file.name.endswith(".npz"):
        arrays = _npz(file)
    elif file.name.endswith(".safetensors"):
        arrays = _safetensors(file)
    elif file.name.endswith(SUFFIXES):
        arrays = _torch(file)
    else:
        raise UserError(f"cannot read {path}: --checkpoint takes {', '.join(SUFFIXES)}")

    # Leave out everything but numbers, for instance lists of names.
    arrays = {name: array for name, array in arrays.items() if _has_numbers(array)}
    if not arrays:
        raise UserError(f"{path} contains no arrays of numbers")
    return arrays


def _has_numbers(array) -> bool:
    """Whether a value is an array of real numbers.

    If a member of a zip file is not an array, NumPy returns its bytes.
    """
    if not isinstance(array, np.ndarray):
        return False
    return array.dtype.kind in "biuf" or array.dtype.name == "bfloat16"


def _npz(file: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a .npz file."""
    try:
        # np.load itself would leave a damaged file open.
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except _DAMAGED as error:
        # NumPy's own message advises to allow objects. That would run code in the file.
        reason = str(error)
        if reason.startswith("Object arrays"):
            reason = "it holds objects of Python"
        elif "pickle" in reason:
            reason = "it is of another kind"
        raise UserError(
            f"{file} is not a complete .npz file of plain arrays ({reason}); save them "
            "again with numpy.savez"
        ) from None


def _safetensors(file: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a .safetensors file."""
    # Imported here because only this function needs it.
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    # AttributeError means a type of number that NumPy does not have.
    damaged = (ValueError, TypeError, KeyError, AttributeError, OSError)
    try:
        return load_file(file)
    except (SafetensorError, *damaged) as error:
        raise UserError(
            f"{file} is not a complete .safetensors file of numbers that NumPy has "
            f"({error}); save it again"
        ) from None


def _torch(file: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of the state_dict in a PyTorch file."""
    # PyTorch is an optional dependency.
    try:
        import torch
    except ImportError:
        raise UserError(
            f"reading {file.name} needs PyTorch: pip install torch, or convert it to "
            ".npz or .safetensors elsewhere"
        ) from None

    # PyTorch raises many classes of errors for damaged files, and for code in them.
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        lines = str(error).strip().splitlines()
        first = lines[0] if lines else type(error).__name__
        raise UserError(
            f"{file} is not a complete PyTorch file of plain tensors ({first}); save a "
            "state_dict by torch.save"
        ) from None

    arrays = {}
    for name, value in _state_dict(file, state).items():
        if not isinstance(value, torch.Tensor):
            continue
        tensor = value.detach()
        # NumPy has no bfloat16.
        if tensor.is_floating_point():
            tensor = tensor.float()
        arrays[name] = tensor.numpy()
    return arrays


def _state_dict(file: pathlib.Path, state: Any) -> dict[str, Any]:
    """The state_dict in the contents of a PyTorch file.

    state: the object that the file holds.
    """
    # Training scripts store the state_dict together with the state of the optimizer.
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        raise UserError(f"{file} contains no state_dict")
    return state
