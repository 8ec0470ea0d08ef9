"""Downloading and preparing a data set with TFDS, which needs TensorFlow; everything else here does without."""

import contextlib
import importlib
import socket
import sys
import urllib.parse
from typing import Any

from bnas_jax.core.errors import UserError
from bnas_jax.data import roots, tfds_directory


def prepare(name: str, out: str | None) -> dict:
    """Prepares `name` (NAME or NAME/CONFIG) in ArrayRecord format in the data directory `out`, by default TFDS's own.

    Raises `UserError` without TensorFlow, and where files cannot be downloaded: it names them and where to put them.
    """
    root = roots.root(out or tfds_directory.DEFAULT, "--out")
    _check_tensorflow(name)
    import tensorflow_datasets as tfds

    manual = root / "downloads" / "manual"
    _check_network(name, root / "downloads", manual)
    try:
        # Its tables and bars go to stdout, which is the summary's.
        with contextlib.redirect_stdout(sys.stderr):
            builder = tfds.builder(name, data_dir=str(root), file_format="array_record")
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(manual_dir=str(manual))
            )
    except Exception as error:  # TFDS raises whatever its builders and downloaders do
        raise UserError(_explained(name, error, manual)) from error
    sizes = {split: info.num_examples for split, info in builder.info.splits.items()}
    return {"num_examples": sum(sizes.values()), "splits": sizes, "out": str(builder.data_path)}


def _check_tensorflow(name: str) -> None:
    try:
        for library in (
            "tensorflow",
            "importlib_resources",
        ):  # TFDS does not name the second among its needs
            importlib.import_module(library)
    except ImportError as error:
        raise UserError(
            f"preparing {name} needs TensorFlow ({error}): pip install 'bnas-jax[tfds]', or pip install tensorflow-cpu"
            " importlib_resources; or copy a prepared TFDS directory here (`data convert` reads TFRecord without TensorFlow)"
        ) from error


def _check_network(name: str, downloads: Any, manual: Any) -> None:
    """Raises `UserError` at once where no server can be found, which TFDS would try for minutes; unless files are there."""
    if any(".tmp." not in file.name and file.is_file() for file in downloads.glob("*/*")):
        return
    for url in _urls(name):
        try:
            socket.getaddrinfo(urllib.parse.urlparse(url).hostname, 443)
        except OSError as error:
            raise UserError(_explained(name, error, manual)) from error


def _explained(name: str, error: Exception, manual: Any) -> str:
    """What went wrong, and how to go on without a network."""
    import tensorflow_datasets as tfds

    reason = " ".join(str(error).split())[:300] or type(error).__name__
    if isinstance(error, tfds.core.registered.DatasetNotFoundError):
        return f"TFDS knows no dataset {name!r}; see its catalog"
    files = _files(name)
    return (
        f"cannot prepare {name} ({reason}); without a network, put {files} into {manual} and run this again, or copy a"
        " prepared TFDS directory"
    )


def _files(name: str) -> str:
    """The names of the files that TFDS would download, with their addresses, or what it says to download by hand."""
    if name == "imagenet2012":
        return "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar"
    known = [f"{name} (from {url})" for url, name in _urls(name).items()]
    return ", ".join(known[:4]) + (" and more" if len(known) > 4 else "") or "its files"


def _urls(name: str) -> dict[str, str]:
    """The addresses from which TFDS loads a set, and the names of the files; none where it does not say beforehand."""
    import tensorflow_datasets as tfds

    with contextlib.suppress(Exception):
        infos = tfds.builder_cls(name.split("/")[0]).url_infos or {}
        return {url: info.filename for url, info in infos.items() if info.filename}
    return {}
