"""A work directory is read as plain values, by programs that need no jax."""

import json
import math
import pathlib
import subprocess
import sys

import pytest

from bnas_jax.core.errors import UserError
from bnas_jax.workdir import FORMAT, RunDirectory

ROOT = pathlib.Path(__file__).parents[2]
READ = """
import sys
from bnas_jax.workdir import RunDirectory
run = RunDirectory(sys.argv[1])
assert "jax" not in sys.modules
steps = [record["step"] for record in run.read_metrics()]
print(run.config()["seed"], run.facts()["num_classes"], steps)
"""


def directory(path: pathlib.Path, **facts) -> pathlib.Path:
    """What a run leaves, as far as it is read here."""
    (path / "config.json").write_text(
        json.dumps({"task": "train", "seed": 3, "changed": []})
    )
    known = {"format": FORMAT, "num_classes": 10, "image_shape": [8, 8, 1]}
    (path / "run.json").write_text(json.dumps(known | facts))
    (path / "metrics.jsonl").write_text('{"step": 5}\n{"step": 10}\n{"ste')
    return path


def test_reading_needs_no_jax(tmp_path):
    command = [sys.executable, "-c", READ, str(directory(tmp_path))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "3 10 [5, 10]\n"


@pytest.mark.parametrize("found", [1, 2, 4])
def test_a_directory_of_another_format_is_refused(tmp_path, found):
    run = RunDirectory(directory(tmp_path, format=found))
    message = (
        f"by another version of bnas-jax, in the format {found}; .* reads 3: choose "
        "another"
    )
    with pytest.raises(UserError, match=message):
        run.config()


def test_a_number_of_too_many_digits_is_damage(tmp_path):
    run = RunDirectory(directory(tmp_path))
    (tmp_path / "config.json").write_text(
        '{"task": "train", "seed": %s}' % ("9" * 5000)
    )
    with pytest.raises(UserError, match="a number has too many digits"):
        run.config()


@pytest.mark.parametrize(
    ("name", "value"),
    {
        "num_classes": -1,
        "image_shape": [8, 8, 2**31],
        "mean": [math.nan],
        "std": [0.0],
        "class_names": ["a"],
    }.items(),
)
def test_a_fact_that_cannot_be_is_damage(tmp_path, name, value):
    """Otherwise a mean of NaN gives an accuracy that looks like one."""
    whole = RunDirectory(directory(tmp_path, mean=[0.5], std=[1])).facts()
    assert whole["std"] == [1]
    run = RunDirectory(directory(tmp_path, **{name: value}))
    with pytest.raises(UserError, match=rf"run\.json has no {name} that fits; restore"):
        run.facts()
