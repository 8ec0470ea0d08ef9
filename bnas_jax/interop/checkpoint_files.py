"""Checkpoint files of other programs as NumPy arrays by name; nothing in them is run."""

import pathlib
import zipfile
import zlib

import numpy as np

from bnas_jax.core import paths
from bnas_jax.core.errors import UserError

SUFFIXES = (".pt", ".pth", ".pth.tar", ".npz", ".safetensors")


def read(path: str) -> dict[str, np.ndarray]:
    """The arrays of a .npz, .safetensors or PyTorch file. Raises `UserError` for any other, or a damaged one."""
    file = paths.local(path, "--checkpoint")
    if not file.is_file():
        raise UserError(
            f"there is no checkpoint {path}; give --checkpoint a file ({', '.join(SUFFIXES)})"
        )
    suffix = next((suffix for suffix in SUFFIXES if file.name.endswith(suffix)), None)
    if suffix is None:
        raise UserError(f"cannot read {path}: --checkpoint takes {', '.join(SUFFIXES)}")
    readers = {".npz": _npz, ".safetensors": _safetensors}
    arrays = readers.get(suffix, _torch)(file)
    if not arrays:
        raise UserError(f"{path} holds no arrays")
    return arrays


def _npz(file: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        # Opened here: np.load leaves a damaged file open.
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        reason = str(error)
        if reason.startswith("Object arrays"):
            reason = "it holds objects of Python"
        elif "pickle" in reason:
            reason = "it is of another kind"
        raise UserError(
            f"{file} is no whole .npz file of plain arrays ({reason}); save them anew by numpy.savez"
        ) from None


def _safetensors(file: pathlib.Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(file)
    except (SafetensorError, ValueError, TypeError, KeyError, OSError) as error:
        raise UserError(
            f"{file} is no whole .safetensors file of numbers that NumPy has ({error}); save it anew"
        ) from None


def _torch(file: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError:
        raise UserError(
            f"reading {file.name} needs PyTorch: pip install torch, or convert it to .npz or .safetensors elsewhere"
        ) from None
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged files, and for code in them
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"{file} is no whole PyTorch file of plain tensors ({first}); save a state_dict by torch.save"
        ) from None
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        raise UserError(f"{file} holds no state_dict")
    tensors = {
        name: value.detach() for name, value in state.items() if isinstance(value, torch.Tensor)
    }
    return {
        name: (t.float() if t.is_floating_point() else t).numpy() for name, t in tensors.items()
    }
