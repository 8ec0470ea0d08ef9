"""docs/errors.md: each mistake in its tables is answered by what stands beside it, in
one line that quotes no Python.
"""

import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from commands import error
from image_files import write_folder

from bnas_jax import settings
from bnas_jax.core.genotype import TABLE_3
from bnas_jax.training import checkpoint_reader
from bnas_jax.workdir import FORMAT
from configs import search as search_configs
from configs import train as train_configs

# ml_collections loads a config's file so.
pytestmark = [
    pytest.mark.filterwarnings(
        r"ignore:the load_module\(\) method is deprecated:DeprecationWarning"
    ),
    pytest.mark.usefixtures("own_compilation_cache", "quick_compilation"),
]

DOCUMENT = pathlib.Path(__file__).parents[2] / "docs" / "errors.md"
# What Python and its libraries say of a value, an object or a file.
PYTHONS = re.compile(
    r"invalid literal|could not convert|object has no attribute|<bound|<class"
    r"|NoneType|codec|Non-boolean|\[Errno|allow_pickle"
)
# A config that raises is its writer's Python.
OWN_CODE = ("raises.py",)


def rows() -> list[tuple[str, str]]:
    """(what is written behind `python -m bnas_jax`, what the error says) by rows."""
    return re.findall(
        r"^\| `(.+)` \| `(.+)` \|$", DOCUMENT.read_text(), flags=re.MULTILINE
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """The files that the document names."""
    folder = tmp_path_factory.mktemp("errors")
    (folder / "empty").mkdir()
    (folder / "loop").symlink_to("loop")
    (folder / "notes.txt").write_text("hello\n")
    (folder / "nothing.py").write_text("def get_config():\n    return None\n")
    (folder / "raises.py").write_text("def get_config():\n    return int('many')\n")

    pairs = [["none", 0]] * 8
    cells = {
        "broken": "{",
        "list": [],
        "seven": pairs[1:],
        "input": [["none", 7], *pairs[1:]],
        "number": [[1, 0], *pairs[1:]],
    }
    for name, cell in cells.items():
        text = cell
        if isinstance(cell, list) and cell:
            text = json.dumps({"normal": cell, "reduce": pairs})
        (folder / f"{name}.json").write_text(str(text))

    np.savez(folder / "arrays.npz", weights=np.zeros(3))
    np.savez(folder / "objects.npz", weights=np.array([{}], dtype=object))
    images = np.zeros((4, 8, 8, 1), np.uint8)
    ids = {"train_labels": np.arange(4) * 1000, "test_labels": np.arange(4)}
    np.savez(folder / "ids.npz", train_images=images, test_images=images, **ids)
    (folder / "damaged.npz").write_bytes(b"PK")
    write_folder(
        folder / "photos", {"train/a": 2, "train/b": 2, "test/a": 1, "test/b": 1}
    )

    for name, config in (("search", search_configs), ("train", train_configs)):
        workdir = folder / "runs" / name
        workdir.mkdir(parents=True)
        resolved = settings.to_dict(settings.from_config(config.get_config("digits")))
        (workdir / "config.json").write_text(json.dumps(resolved))
        (workdir / "run.json").write_text(
            json.dumps({"format": FORMAT, "num_classes": 10, "image_shape": [8, 8, 1]})
        )
    alphas = np.zeros((3, 14, len(TABLE_3)))
    np.savez(
        folder / "runs" / "search" / "alphas.npz",
        normal=alphas,
        reduce=alphas,
        valid_top1=np.zeros(2),
    )
    for name, file, data in (
        ("damaged", "config.json", b"\xff\xfe"),
        ("begun", "alphas.npz", None),
    ):
        (folder / "runs" / name).mkdir()
        for path in (folder / "runs" / "search").iterdir():
            (folder / "runs" / name / path.name).write_bytes(path.read_bytes())
        (folder / "runs" / name / file).unlink()
        if data is not None:
            (folder / "runs" / name / file).write_bytes(data)
    half = folder / "runs" / "half"
    shutil.copytree(folder / "runs" / "search", half)
    for file in ("summary.json", "genotype.json"):
        (half / file).write_text("{")
    return folder


def said(capfd, words: list[str], folder: pathlib.Path) -> str:
    """The one line of a mistake, with paths as the user wrote them."""
    return error(capfd, *words).replace(f"{folder}{os.sep}", "")


def files_of(folder):
    """What is in a folder, but for Python's own cache of imported modules."""
    paths = sorted(folder.rglob("*"))
    return [path for path in paths if "__pycache__" not in path.parts]


@pytest.mark.parametrize(
    ("written", "says"), rows(), ids=[written for written, _ in rows()]
)
def test_a_mistake_is_answered_as_documented(capfd, monkeypatch, folder, written, says):
    """A list that grows ends in three dots there. Nothing is left behind."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder.with_name("home")))
    before = files_of(folder)
    message = said(capfd, shlex.split(written), folder)
    for part in says.split(" ..."):
        assert part in message
    assert files_of(folder) == before
    if not any(name in written for name in OWN_CODE):
        assert not PYTHONS.search(message), message


def test_a_config_without_its_function_is_said(tmp_path):
    """In a process of its own, as ml_collections would find the function of a config
    that was loaded before.
    """
    (tmp_path / "nothing.py").write_text("x = 1\n")
    command = [
        sys.executable,
        "-m",
        "bnas_jax",
        "cost",
        f"--config={tmp_path / 'nothing.py'}",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=DOCUMENT.parent.parent, check=False
    )
    expected = (
        f"bnas_jax: error: {tmp_path / 'nothing.py'} has no function get_config(); "
        "configs/train.py shows one\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)


def test_a_full_disk_is_said_however_long_the_path_before_it():
    where = "/".join(["a_long_name"] * 30)
    error = ValueError(f"INTERNAL: writing {where}: No space left on device [of x]")
    assert checkpoint_reader.reason_of(error) == "No space left on device"


def test_a_damaged_checkpoint_is_not_described_by_objects_of_python():
    assert (
        checkpoint_reader.reason_of(
            ValueError("<bound method pybind11_object of <x>> failed")
        )
        == "its files cannot be read"
    )
    assert (
        checkpoint_reader.reason_of(ValueError("NOT_FOUND: no such array"))
        == "NOT_FOUND: no such array"
    )
    assert (
        checkpoint_reader.reason_of(json.JSONDecodeError("Expecting value", "", 0))
        == "what describes it cannot be read"
    )
