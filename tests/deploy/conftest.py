"""A training and its packed file, for all tests of this folder."""

import json
import pathlib

import pytest
from small_runs import arguments
from work_directories import CELL

from bnas_jax.__main__ import run as command


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> pathlib.Path:
    """A training of an epoch on the digits, of words that channels fill."""
    folder = tmp_path_factory.mktemp("packed")
    cell = folder / "genotype.json"
    cell.write_text(json.dumps({"normal": CELL, "reduce": CELL}))
    options = ("--config.num_epochs=1", "--config.network.channels=8")
    assert command(arguments("train", folder / "run", cell, *options)) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def exported(workdir) -> pathlib.Path:
    out = workdir.parent / "digits.bnas"
    assert command(["export", f"--workdir={workdir}", f"--out={out}"]) == 0
    return out
