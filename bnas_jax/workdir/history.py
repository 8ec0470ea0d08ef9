"""The history of alpha that a search writes to alphas.npz, for reading."""

import zipfile

import numpy as np

from bnas_jax.core.errors import UserError
from bnas_jax.workdir.directory import RunDirectory

HISTORY = "alphas.npz"


def read_history(directory: RunDirectory) -> dict[str, np.ndarray]:
    """The history of alpha of a search that has ended, or is under way.

    It has one array for each cell, such as `normal` and `reduce`: alpha before the
    first and after each epoch, (epochs + 1, 14, types). `valid_top1`, (epochs,), are
    the supernet's validation accuracies in %, NaN for an epoch that was not validated.

    Raises `UserError` where no epoch has ended, or the file is damaged.
    """
    path = directory / HISTORY
    try:
        with np.load(path, allow_pickle=False) as stored:
            # `valid_top1` is named, so that a file without it is damaged.
            names = {*stored.files, "valid_top1"}
            return {name: stored[name] for name in names}
    except FileNotFoundError:
        raise UserError(
            f"{directory.path} has no {HISTORY}: no epoch of its search has ended, or "
            "the file is lost; run search with this --workdir first"
        ) from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        # NumPy's words are about pickles, which these files never are.
        reason = "it is damaged"
        if isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        raise UserError(
            f"{path} cannot be read ({reason}); the command that made the search, run "
            "again with this --workdir, writes it anew"
        ) from None
