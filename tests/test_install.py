"""The package as pip installs it: with its presets, and working from any folder."""

import json
import os
import pathlib
import subprocess
import sys
import sysconfig
import venv
import zipfile

import pytest

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("wheel")
    # Of a copy, as building leaves folders behind.
    source = folder / "source"
    source.mkdir()
    wanted = [
        "bnas_jax",
        "configs",
        "pyproject.toml",
        "setup.py",
        "README.md",
        "LICENSE",
    ]
    list_files = [
        "git",
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        *wanted,
    ]
    listed = subprocess.run(
        list_files, cwd=ROOT, check=True, capture_output=True, text=True
    )
    for name in listed.stdout.split():
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
    build = [
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        str(folder),
        str(source),
    ]
    subprocess.run([sys.executable, "-m", *build], check=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_the_package_and_its_presets_and_nothing_beside(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"bnas_jax"}
    presets = {path.name for path in (ROOT / "configs").glob("*.py")}
    assert {
        name.rpartition("/")[2]
        for name in names
        if name.startswith("bnas_jax/presets/configs/")
    } == presets
    assert "bnas_jax/core/genotypes/latest_cell.json" in names


def installed(python: pathlib.Path, folder: pathlib.Path, *command: str) -> dict:
    """The JSON object that a command in that folder ends with."""
    finished = subprocess.run(
        [python, "-m", "bnas_jax", *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])


def test_installed_it_trains_from_another_folder(wheel, tmp_path):
    venv.create(tmp_path / "env", with_pip=False)
    site = next((tmp_path / "env").glob("lib/python*/site-packages"))
    zipfile.ZipFile(wheel).extractall(site)
    # The libraries that it needs are those of the tests.
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    sizes = {
        "network.num_cells": 1,
        "network.channels": 2,
        "num_epochs": 1,
        "batch_size": 256,
    }
    settings = [f"--config.{name}={value}" for name, value in sizes.items()]
    command = ["train", "--config=train:digits", "--workdir=run", *settings]
    python = tmp_path / "env" / "bin" / "python"
    assert installed(python, tmp_path, *command)["steps"] == 5
    # A config of the user's that begins with a preset.
    (tmp_path / "mine.py").write_text(
        "from configs import train\n\nget_config = lambda: train.get_config('digits')\n"
    )
    assert installed(python, tmp_path, "cost", "--config=mine.py")["params"] > 0
    show = [python, "-c", "import bnas_jax; print(bnas_jax.__file__)"]
    assert (
        str(site)
        in subprocess.run(show, cwd=tmp_path, capture_output=True, text=True).stdout
    )
