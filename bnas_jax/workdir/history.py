"""Reads alphas.npz, the history of alpha that a search writes."""

import zipfile

import numpy as np

from bnas_jax.core.errors import UserError
from bnas_jax.workdir.directory import RunDirectory

HISTORY = "alphas.npz"


def read_history(directory: RunDirectory) -> dict[str, np.ndarray]:
    """The history of alpha of a search, which may still be running.

    The arrays of alpha, such as `normal` and `reduce`, have the values before the first
    epoch and after each epoch, (epochs + 1, 14, types). `valid_top1` is the supernet's
    validation accuracy in % in each epoch, (epochs,), NaN without validation.

    Raises `UserError` if no epoch has ended, or if the file is damaged.
    """
    path = directory / HISTORY
    try:
        with np.load(path, allow_pickle=False) as stored:
            # `valid_top1` is always read, so that a file without it counts as damaged.
            names = {*stored.files, "valid_top1"}
            return {name: stored[name] for name in names}
    except FileNotFoundError:
        raise UserError(
            f"{directory.path} has no {HISTORY}: no epoch of its search has ended, or "
            "the file is lost; run search with this --workdir first"
        ) from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        # NumPy's own message is about pickles, which do not occur here.
        reason = "it is damaged"
        if isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        raise UserError(
            f"{path} cannot be read ({reason}); the command that made the search, run "
            "again with this --workdir, rewrites it"
        ) from None
