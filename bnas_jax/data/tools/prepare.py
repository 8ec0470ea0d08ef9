"""Downloading and preparing a data set with TFDS, which needs TensorFlow; reading what
was prepared does not.
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
_READY = ("digits", "folder")


def prepare(name: str, out: str | None) -> dict:
    """Prepares `name` (NAME or NAME/CONFIG) in ArrayRecord format in the data directory
    `out`, by default that of TFDS.

    Raises `UserError` for what needs no preparation, without TensorFlow, and where
    files cannot be downloaded: it names them, and where to put them.
    """
    if name in _READY:
        raise UserError(
            f"{name} needs no preparation; write --config.dataset.name={name}"
        )
    root = roots.root(out or tfds_directory.DEFAULT, "--out")
    _check_tensorflow(name)
    import tensorflow_datasets as tfds

    downloads = root / "downloads"
    manual = downloads / "manual"
    _check_network(name, downloads=downloads, manual=manual)
    config = tfds.download.DownloadConfig(manual_dir=str(manual))
    try:
        # Its tables and bars go to stdout, where only the summary belongs.
        with contextlib.redirect_stdout(sys.stderr):
            builder = tfds.builder(name, data_dir=str(root), file_format="array_record")
            builder.download_and_prepare(download_config=config)
    # TFDS raises whatever its builders and downloaders do.
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
    try:
        importlib.import_module("tensorflow")
        # TFDS does not name it among its needs.
        importlib.import_module("importlib_resources")
    except ImportError as error:
        raise UserError(
            f"preparing {name} needs TensorFlow ({error}): pip install tensorflow-cpu "
            "importlib_resources;"
            " or copy a prepared TFDS directory here (`data convert` reads TFRecord "
            "without TensorFlow)"
        ) from error


def _check_network(name: str, downloads: Any, manual: Any) -> None:
    """Raises `UserError` at once where no server can be found, which TFDS would try for
    minutes; unless files are there.
    """
    for file in downloads.glob("*/*"):
        # A download under way has such a name.
        if ".tmp." not in file.name and file.is_file():
            return
    for url in _urls(name):
        host = urllib.parse.urlparse(url).hostname
        try:
            socket.getaddrinfo(host, 443)
        except OSError as error:
            raise UserError(_explained(name, error=error, manual=manual)) from error


def _explained(name: str, error: Exception, manual: Any) -> str:
    """The error of a set that could not be prepared, with what to do without a network."""
    import tensorflow_datasets as tfds

    one_line = " ".join(str(error).split())
    reason = one_line[:300] or type(error).__name__
    if isinstance(error, tfds.core.registered.DatasetNotFoundError):
        return f"TFDS knows no dataset {name!r}; see its catalog"
    # By hand is the way out of most failures: TFDS finds the files where they are put.
    files = _files(name)
    return (
        f"cannot prepare {name} ({reason}); without a network, put {files} into "
        f"{manual} and run this again, or copy a"
        " prepared TFDS directory"
    )


def _files(name: str) -> str:
    """The names and addresses of the files that TFDS would download, or of those that
    have to be downloaded by hand.
    """
    # TFDS does not download it: its images have a licence to agree to.
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
    """The addresses from which TFDS loads a set, and the names of the files; none where
    it does not say beforehand.
    """
    import tensorflow_datasets as tfds

    # For an unknown name, and for a builder without a list of its files.
    with contextlib.suppress(Exception):
        infos = tfds.builder_cls(name.split("/")[0]).url_infos or {}
        return {url: info.filename for url, info in infos.items() if info.filename}
    return {}
