"""Downloads and prepares a data set with TFDS, which needs TensorFlow.

Reading a prepared set does not need it.
"""

import contextlib
import importlib
import socket
import sys
import urllib.parse
from typing import Any

from bnas_jax.core.errors import UserError
from bnas_jax.data.readers import roots, tfds_directory

# Data sets that are not made by TFDS.
_READY = ("digits", "folder", "npz")


def prepare(name: str, out: str | None) -> dict:
    """Prepares a data set in ArrayRecord format; returns its size and directory.

    Raises `UserError` for a set that needs no preparation, without TensorFlow, and
    where files cannot be downloaded: the message names them, and where to put them.

    name: NAME, or NAME/CONFIG.
    out: the data directory; None is TFDS's default.
    """
    if name in _READY:
        raise UserError(
            f"{name} needs no preparation; write --config.dataset.name={name}"
        )
    root = roots.root(out or tfds_directory.DEFAULT, "--out")
    _check_tensorflow(name)
    import tensorflow_datasets as tfds

    # TFDS uses the files that a user has put into `manual`.
    downloads = root / "downloads"
    manual = downloads / "manual"
    _check_network(name, downloads=downloads, manual=manual)
    config = tfds.download.DownloadConfig(manual_dir=str(manual))
    try:
        # TFDS prints tables and progress bars to stdout, which is for the summary.
        with contextlib.redirect_stdout(sys.stderr):
            builder = tfds.builder(name, data_dir=str(root), file_format="array_record")
            builder.download_and_prepare(download_config=config)
    # TFDS raises whatever its builders and downloaders raise.
    except Exception as error:
        raise UserError(_explained(name, error=error, manual=manual)) from error

    splits = builder.info.splits
    sizes = {split: info.num_examples for split, info in splits.items()}
    return {
        "num_examples": sum(sizes.values()),
        "splits": sizes,
        "out": str(builder.data_path),
    }


def _check_tensorflow(name: str) -> None:
    """Raises `UserError` where TensorFlow cannot be imported."""
    try:
        importlib.import_module("tensorflow")
        # TFDS needs this package, too, but does not require it.
        importlib.import_module("importlib_resources")
    except ImportError as error:
        raise UserError(
            f"preparing {name} needs TensorFlow ({error}): pip install tensorflow-cpu "
            "importlib_resources; or copy a prepared TFDS directory here (`data "
            "convert` reads TFRecord without TensorFlow)"
        ) from error


def _check_network(name: str, downloads: Any, manual: Any) -> None:
    """Raises `UserError` at once if there is no network, but it is needed.

    TFDS would try for minutes.
    """
    # No network is needed if files were downloaded already.
    for file in downloads.glob("*/*"):
        # An unfinished download has .tmp. in its name.
        if ".tmp." not in file.name and file.is_file():
            return

    # Whether the names of the servers can be resolved.
    for url in _urls(name):
        host = urllib.parse.urlparse(url).hostname
        try:
            socket.getaddrinfo(host, 443)
        except OSError as error:
            raise UserError(_explained(name, error=error, manual=manual)) from error


def _explained(name: str, error: Exception, manual: Any) -> str:
    """The message for a set that could not be prepared, with what to do about it."""
    import tensorflow_datasets as tfds

    one_line = " ".join(str(error).split())
    reason = one_line[:300] or type(error).__name__
    if isinstance(error, tfds.core.registered.DatasetNotFoundError):
        return f"TFDS knows no data set {name!r}; see its catalog"

    # Most failures can be solved by hand: TFDS finds files that the user puts there.
    files = _files(name)
    return (
        f"cannot prepare {name} ({reason}); without a network, put {files} into "
        f"{manual} and run this again, or copy a prepared TFDS directory"
    )


def _files(name: str) -> str:
    """The names and addresses of the files from which a set is prepared, as a phrase.

    TFDS downloads them, or the user has to.
    """
    # TFDS does not download ImageNet, since one must agree to its licence.
    if name == "imagenet2012":
        return "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar"
    known = [f"{file} (from {url})" for url, file in _urls(name).items()]
    if not known:
        return "its files"
    listed = ", ".join(known[:4])
    if len(known) > 4:
        listed += " and more"
    return listed


def _urls(name: str) -> dict[str, str]:
    """{address: name of the file} of the files that TFDS downloads for a set.

    {} where TFDS does not list them.
    """
    import tensorflow_datasets as tfds

    # Ignore the errors of an unknown name, and of a builder without a list of files.
    with contextlib.suppress(Exception):
        infos = tfds.builder_cls(name.split("/")[0]).url_infos or {}
        return {url: info.filename for url, info in infos.items() if info.filename}
    return {}
