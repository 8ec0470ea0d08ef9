"""The command line: one JSON line on stdout, one line on stderr for a mistake, exit codes."""

import json
import subprocess
import sys

import pytest

from bnas_jax.__main__ import COMMANDS, LATER, run

DIGITS = "--config=configs/train.py:digits"
SEARCH = "--config=configs/search.py:digits"


def summary(capsys, *arguments) -> dict:
    assert run(list(arguments)) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def mistake(capsys, *arguments) -> str:
    assert run(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("bnas_jax: error: ") and captured.err.count("\n") == 1
    return captured.err


def test_cost_sums_up_a_preset(capsys):
    result = summary(capsys, "cost", "--config=configs/train.py:a", "--config.conventions=release")
    assert result["params"] == 5_578_252
    assert round(result["flops"] / 1e8, 3) == 0.988
    assert {"binary_macs", "float_macs", "memory_bits", "speedup", "memory_saving"} <= set(result)


def test_cost_compares_with_the_float_network_without_zeroise(capsys):
    result = summary(capsys, "cost", "--config=configs/train.py:a")
    assert round(result["speedup"]) == 141  # Table 9, as counted here
    assert round(result["flops"] / 1e8, 3) == 0.152


def test_cost_finds_the_size_for_a_budget(capsys):
    sizes = ["--num_cells=12", "--channels=64", "--image_size=224", "--num_classes=1000"]
    result = summary(capsys, "cost", "--genotype=latest_cell", *sizes, "--budget=1.48e8")
    assert (result["channels"], result["num_cells"]) == (64, 12)  # BNAS-D
    result = summary(capsys, "cost", "--genotype=latest_cell", *sizes, "--budget=2e7", "--cells=5-9")
    assert 5 <= result["num_cells"] <= 9 and 1.5e7 < result["flops"] <= 2e7


CELL = {"normal": [["none", 0]] * 8, "reduce": [["none", 1]] * 8}
BROKEN_CELLS = {
    "unknown layer type 'conv9'": {**CELL, "normal": [["conv9", 0]] + [["none", 0]] * 7},
    "its input must be 0 to 1": {**CELL, "normal": [["none", 2]] + [["none", 0]] * 7},
    "needs 8 [layer type, input] pairs": {**CELL, "reduce": [["none", 0]] * 7},
}


@pytest.mark.parametrize("message", BROKEN_CELLS)
def test_a_broken_genotype_is_refused(message, capsys, tmp_path):
    (tmp_path / "cell.json").write_text(json.dumps(BROKEN_CELLS[message]))
    error = mistake(capsys, "train", DIGITS, f"--config.network.genotype={tmp_path}/cell.json", f"--workdir={tmp_path}/w")
    assert message in error
    assert not (tmp_path / "w").exists()


MISTAKES = {
    "is not a command": ["fly"],
    "not available in this version": ["draw"],
    "train needs a config": ["train", "--workdir=W"],
    "this config is for search": ["train", SEARCH, "--workdir=W"],
    "--workdir is missing": ["train", DIGITS],
    "no config file configs/nope.py": ["train", "--config=configs/nope.py", "--workdir=W"],
    "no training preset 'zz'": ["train", "--config=configs/train.py:zz", "--workdir=W"],
    "no search preset 'zz'": ["search", "--config=configs/search.py:zz", "--workdir=W"],
    "no ablation 'zz'": ["train", "--config=configs/ablations.py:zz", "--workdir=W"],
    "unknown setting --config.nope": ["train", DIGITS, "--config.nope=1", "--workdir=W"],
    "unknown setting --config.optimizer.lr": ["train", DIGITS, "--config.optimizer.lr=1", "--workdir=W"],
    "--config.batch_size=many": ["train", DIGITS, "--config.batch_size=many", "--workdir=W"],
    "lower config.batch_size from 2000": ["train", DIGITS, "--config.batch_size=2000", "--workdir=W"],
    "config.derive.gamma must be greater than 0": ["search", SEARCH, "--config.derive.gamma=0", "--workdir=W"],
    "config.conventions must be one of": ["train", DIGITS, "--config.conventions=mine", "--workdir=W"],
    "config.network.genotype is missing": ["train", "--config=configs/ablations.py:train_no_diversity_a", "--workdir=W"],
    "cannot be halved": ["train", DIGITS, "--config.network.form=imagenet", "--workdir=W"],
    "unexpected argument 'extra'": ["train", DIGITS, "extra", "--workdir=W"],
    "it has no config.json": ["evaluate", "--workdir=W"],
    "--preset is missing": ["import", "--checkpoint=x.npz", "--workdir=W"],
    "there is no checkpoint x.npz": ["import", "--checkpoint=x.npz", "--preset=mini", "--workdir=W"],
    "cost needs --config": ["cost"],
    "too small": ["cost", "--config=configs/train.py:a", "--budget=10"],
    "--budget must be a number": ["cost", "--config=configs/train.py:a", "--budget=ten"],
    "--cells takes LOW-HIGH": ["cost", "--config=configs/train.py:a", "--budget=1e9", "--cells=9-5"],
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_is_one_line_that_helps(message, capsys, tmp_path):
    arguments = [a.replace("--workdir=W", f"--workdir={tmp_path}/w") for a in MISTAKES[message]]
    assert message in mistake(capsys, *arguments)
    assert not (tmp_path / "w").exists()


def test_what_is_not_there_yet_is_no_command():
    assert not set(LATER) & set(COMMANDS)


def test_debug_shows_where_it_happened(capsys):
    assert run(["cost", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_as_a_process_from_another_folder(tmp_path):
    command = [sys.executable, "-m", "bnas_jax", "cost", "--config=configs/train.py:mini"]
    root = __file__.rsplit("/", 2)[0]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": root, "PATH": ""}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["num_cells"] == 10
    assert "FLOPs = float MACs + binary MACs / 64" in done.stdout
