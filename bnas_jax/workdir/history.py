"""The history of alpha that a search writes to alphas.npz, for reading."""

import zipfile

import numpy as np

from bnas_jax.core.errors import UserError
from bnas_jax.workdir.directory import RunDirectory

HISTORY = "alphas.npz"


def read_history(directory: RunDirectory) -> dict[str, np.ndarray]:
    """The history of alpha of a search that has ended, or is under way.

    One array for each cell, such as `normal` and `reduce`: alpha before the first and after each epoch,
    (epochs + 1, 14, types). `valid_top1`: the supernet's validation accuracies in %, (epochs,), NaN for an epoch that was
    not validated. `UserError` where no epoch has ended, or the file is damaged.
    """
    path = directory / HISTORY
    try:
        with np.load(path, allow_pickle=False) as stored:
            # `valid_top1` is named, so that a file without it is damaged.
            return {name: stored[name] for name in {*stored.files, "valid_top1"}}
    except FileNotFoundError:
        missing = f"{directory.path} has no {HISTORY} yet: no epoch of its search has ended"
        raise UserError(f"{missing}; run search with this --workdir first") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} cannot be read ({error}); restore it, or search again in another --workdir"
        ) from None
