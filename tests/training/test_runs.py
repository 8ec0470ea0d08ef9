"""Whole runs: what they leave, and that stopped, killed or damaged ones end bit for bit
the same.
"""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from counted_runs import arrays_file, cut, tree_of
from small_runs import (
    STEPS,
    TASKS,
    arguments,
    check_compiled_once,
    check_same_run,
    read,
    records,
    traces,
)
from work_directories import arrays

from bnas_jax import settings
from bnas_jax.__main__ import run as command
from bnas_jax.core import alphas as alphas_lib
from bnas_jax.core import genotypes
from bnas_jax.core.layers import learnable_share
from bnas_jax.search import Bnas
from bnas_jax.training.evaluate import Evaluator

pytestmark = pytest.mark.usefixtures("compiled_once")


ROOT = pathlib.Path(__file__).parents[2]


def test_training_leaves_everything_in_its_work_directory(whole):
    workdir, _ = whole("train")
    names = {
        "config.json",
        "run.json",
        "metrics.jsonl",
        "log.txt",
        "summary.json",
        "checkpoints",
        "tensorboard",
        "lock",
    }
    assert {path.name for path in workdir.iterdir()} == names
    assert settings.from_config(read(workdir / "config.json")).network.channels == 2
    facts = read(workdir / "run.json")
    assert (facts["num_classes"], facts["image_shape"]) == (10, [8, 8, 1])
    assert (
        facts["environment"]["jax"] == jax.__version__
        and "cpu" in facts["environment"]["device"]
    )
    losses = [record["train_loss"] for record in records(workdir)]
    assert [record["step"] for record in records(workdir)] == [
        STEPS,
        2 * STEPS,
    ] and losses[1] < losses[0] < 4
    assert all(
        f"test_{name}" in record
        for record in records(workdir)
        for name in ("top1", "top5", "loss")
    )
    assert next((workdir / "tensorboard").iterdir()).stat().st_size > 0
    summary = read(workdir / "summary.json")
    last = records(workdir)[-1]
    assert (summary["top1"], summary["loss"]) == (last["test_top1"], last["test_loss"])
    assert summary["num_examples"] == 360 and summary["steps"] == 2 * STEPS
    assert summary["best_top1"] == pytest.approx(
        max(record["test_top1"] for record in records(workdir))
    )


def test_a_search_leaves_its_genotype_and_the_history_of_alpha(whole):
    workdir, _ = whole("search")
    names = {
        "config.json",
        "run.json",
        "metrics.jsonl",
        "summary.json",
        "genotype.json",
        "alphas.npz",
        "checkpoints",
    }
    assert {path.name for path in workdir.iterdir()} == names | {
        "cell.svg",
        "tensorboard",
        "log.txt",
        "lock",
    }
    assert "run: normal cell</text>" in (workdir / "cell.svg").read_text()
    with np.load(workdir / "alphas.npz") as stored:
        history = {name: stored[name] for name in ("normal", "reduce")}
        valid_top1 = stored["valid_top1"]
    assert all(value.shape == (3, 14, 2) for value in history.values())
    assert np.abs(history["normal"][0]).max() < 0.01 and not np.array_equal(
        history["normal"][0], history["normal"][1]
    )
    written = records(workdir)
    assert np.allclose(valid_top1, [record["valid_top1"] for record in written])
    for epoch, record in enumerate(written):
        alphas = {
            name: jnp.asarray(value[epoch + 1]) for name, value in history.items()
        }
        derived = Bnas(layer_types=("none", "bin_conv_3x3")).derive(alphas)
        assert record["genotype"] == derived.to_dict()
        assert record["alpha_entropy"] == pytest.approx(
            float(alphas_lib.entropy(alphas))
        )
        assert record["learnable_share"] == learnable_share(derived)
    best = int(np.argmax(valid_top1))
    genotype = read(workdir / "genotype.json")
    assert genotype["epoch"] == best and genotype["select"] == "best"
    assert {name: genotype[name] for name in ("normal", "reduce")} == written[best][
        "genotype"
    ]
    assert genotypes.load(str(workdir / "genotype.json")) == genotypes.from_dict(
        written[best]["genotype"]
    )
    summary = read(workdir / "summary.json")
    assert (
        summary["genotype"] == written[best]["genotype"]
        and summary["steps"] == 2 * STEPS
    )
    assert summary["valid_top1"] == pytest.approx(float(valid_top1[best]))


def test_a_search_that_has_ended_takes_another_genotype_by_other_rules(
    whole, tmp_path, cell
):
    workdir = shutil.copytree(whole("search")[0], tmp_path / "run")
    before = {
        name: (workdir / name).read_bytes()
        for name in ("config.json", "metrics.jsonl", "alphas.npz")
    }
    rules = [
        "--config.searcher.keep_zeroise=False",
        "--config.searcher.gamma=2.0",
        "--config.select=last",
    ]
    assert (
        command(
            arguments("search", workdir, cell, *rules, "--config.alphas_as_of=before")
        )
        == 0
    )
    with np.load(workdir / "alphas.npz") as stored:
        alphas = {name: jnp.asarray(stored[name][1]) for name in ("normal", "reduce")}
    searcher = Bnas(layer_types=("none", "bin_conv_3x3"), keep_zeroise=False)
    expected = searcher.derive(alphas).to_dict()
    genotype = read(workdir / "genotype.json")
    assert {name: genotype[name] for name in ("normal", "reduce")} == expected
    rule = {
        name: genotype[name]
        for name in ("select", "alphas_as_of", "epoch", "derivation")
    }
    assert rule == {
        "select": "last",
        "alphas_as_of": "before",
        "epoch": 1,
        "derivation": {"gamma": 2.0, "keep_zeroise": False},
    }
    summary = read(workdir / "summary.json")
    assert (summary["genotype"], summary["epoch"]) == (expected, 1)
    assert before == {name: (workdir / name).read_bytes() for name in before}


@pytest.mark.parametrize(
    "damaged",
    [
        pytest.param(None, id="gone"),
        pytest.param(b"", id="empty", marks=pytest.mark.long),
        pytest.param(bytes(100), id="zeros", marks=pytest.mark.long),
    ],
)
def test_a_search_that_has_ended_writes_a_lost_history_of_alpha_anew(
    whole, tmp_path, cell, capfd, damaged
):
    workdir = shutil.copytree(whole("search")[0], tmp_path / "run")
    history = workdir / "alphas.npz"
    before = history.read_bytes()
    history.unlink()
    if damaged is not None:
        history.write_bytes(damaged)
    derive = ["derive", f"--workdir={workdir}", f"--out={tmp_path / 'cell.json'}"]
    capfd.readouterr()
    assert command(derive) == 2
    assert "with this --workdir" in capfd.readouterr().err
    assert (
        command(arguments("search", workdir, cell)) == 0
        and history.read_bytes() == before
    )
    assert command(derive) == 0


@pytest.mark.parametrize("task", TASKS)
def test_a_run_that_has_ended_writes_half_a_result_anew(
    whole, tmp_path, cell, capfd, task
):
    """As the commands that read it advise."""
    workdir = shutil.copytree(whole(task)[0], tmp_path / "run")
    readers = {"summary.json": ["report", f"--workdir={workdir}"]}
    if task == "search":
        out = f"--out={tmp_path / 'cell.svg'}"
        readers["genotype.json"] = ["draw", f"--genotype={workdir}", out]
    before = {name: (workdir / name).read_bytes() for name in readers}
    for name, reader in readers.items():
        cut(workdir / name)
        capfd.readouterr()
        assert command(reader) == 2
        said = capfd.readouterr().err
        assert str(workdir / name) in said and "--workdir, rewrites it" in said

    assert command(arguments(task, workdir, cell)) == 0
    for name, reader in readers.items():
        assert (workdir / name).read_bytes() == before[name]
        assert command(reader) == 0


def test_a_search_whose_cell_cannot_be_drawn_ends_all_the_same(
    whole, tmp_path, cell, capfd
):
    workdir = shutil.copytree(whole("search")[0], tmp_path / "run")
    (workdir / "cell.svg").unlink()
    (workdir / "cell.svg").mkdir()
    capfd.readouterr()
    assert command(arguments("search", workdir, cell)) == 0
    out, err = capfd.readouterr()
    assert json.loads(out.splitlines()[-1]) == read(workdir / "summary.json")
    (line,) = (line for line in err.splitlines() if "cell.svg" in line)
    assert f"draw --genotype={workdir} --out=FILE.svg" in line
    assert line.removeprefix("bnas_jax: ") in (workdir / "log.txt").read_text()


def test_derive_takes_what_the_search_took(whole, tmp_path, capfd):
    workdir, _ = whole("search")
    out = tmp_path / "cell.json"
    capfd.readouterr()
    assert command(["derive", f"--workdir={workdir}", f"--out={out}"]) == 0
    summary = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert read(out) == read(workdir / "genotype.json") and summary["out"] == str(out)


@pytest.mark.parametrize("task", TASKS)
def test_each_step_is_traced_and_compiled_once(whole, task):
    """The step of the run and that of the evaluation: over two epochs with checkpoints
    between.
    """
    _, seen = whole(task)
    check_compiled_once(seen, task)


class Process:
    """The command line in a process of its own."""

    def __init__(self, *command: str):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bnas_jax", *command],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def signal_after(
        self, checkpoint: pathlib.Path, number: int
    ) -> tuple[int, str, str]:
        """Sends the signal once there is that checkpoint; returns exit code, stdout and
        stderr.
        """
        while not checkpoint.is_dir() and self.process.poll() is None:
            time.sleep(0.005)
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> tuple[int, str, str]:
        stdout, stderr = self.process.communicate()
        return self.process.returncode, stdout, stderr


@pytest.mark.parametrize(
    ("task", "number", "code"),
    [
        ("train", signal.SIGTERM, 143),
        pytest.param("search", signal.SIGINT, 130, marks=pytest.mark.long),
    ],
)
def test_a_run_that_was_stopped_and_then_killed_goes_on_bit_for_bit(
    whole, cell, tmp_path, task, number, code
):
    workdir = tmp_path / "run"
    checkpoints = workdir / "checkpoints"
    same_command = arguments(task, workdir, cell, "--config.checkpoint_every_steps=1")

    exit_code, stdout, stderr = Process(*same_command).signal_after(
        checkpoints / "3", number
    )
    assert exit_code == code and stdout == "", stderr
    stopped = stderr.splitlines()[-1]
    assert stopped.startswith(
        f"bnas_jax: stopped by {signal.Signals(number).name} at step "
    )
    step = int(stopped.split("at step ")[1].split(";")[0])
    assert 3 <= step < 2 * STEPS and (checkpoints / str(step)).is_dir()

    exit_code, stdout, stderr = Process(*same_command).signal_after(
        checkpoints / str(STEPS + 3), signal.SIGKILL
    )
    assert exit_code == -signal.SIGKILL and stdout == "", stderr
    assert not (workdir / "summary.json").exists()

    seen = traces()
    assert command(same_command) == 0
    check_compiled_once(seen, task)
    check_same_run(workdir, whole(task)[0])


@pytest.mark.long
def test_a_signal_ends_a_process_that_compiles(whole, cell, tmp_path, monkeypatch):
    same_command = arguments(
        "train", tmp_path / "run", cell, "--config.checkpoint_every_steps=10"
    )
    with monkeypatch.context() as anew:
        anew.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "nothing_compiled"))
        process = Process(*same_command)
    assert process.process.stderr.readline() == "compiling\n"
    process.process.send_signal(signal.SIGTERM)
    exit_code, stdout, stderr = process.wait()
    assert exit_code == 143 and stdout == ""
    assert stderr == (
        "bnas_jax: stopped by SIGTERM at step 0; "
        "the same command continues from there\n"
    )
    assert "compiled" not in (tmp_path / "run" / "log.txt").read_text()
    assert command(same_command) == 0
    check_same_run(tmp_path / "run", whole("train")[0])


@pytest.mark.parametrize(
    ("epoch", "task"),
    [
        (0, "train"),
        pytest.param(1, "search", marks=pytest.mark.long),
        pytest.param(1, "train", marks=pytest.mark.long),
        pytest.param(0, "search", marks=pytest.mark.long),
    ],
)
def test_a_run_stopped_in_an_evaluation_goes_on_bit_for_bit(
    whole, cell, tmp_path, monkeypatch, capfd, task, epoch
):
    workdir = tmp_path / "run"
    same_command = arguments(task, workdir, cell, "--config.checkpoint_every_steps=10")
    call, begun = Evaluator.call, list[int]()

    def interrupting(self, *variables, batch=0, **options):
        begun.append(batch)
        if batch == 0 and begun.count(0) == epoch + 2:  # the first is compiled for
            os.kill(os.getpid(), signal.SIGTERM)
        return call(self, *variables, batch=batch, **options)

    with monkeypatch.context() as first:
        first.setattr(Evaluator, "call", interrupting)
        assert command(same_command) == 143
    step = STEPS * (epoch + 1)
    assert f"stopped by SIGTERM at step {step};" in capfd.readouterr().err
    assert (
        len(records(workdir)) == epoch
        and (workdir / "checkpoints" / str(step)).is_dir()
    )
    assert command(same_command) == 0
    check_same_run(workdir, whole(task)[0])


def test_a_finished_run_with_a_damaged_checkpoint_goes_back_and_ends_the_same(
    whole, cell, tmp_path, capfd
):
    workdir = shutil.copytree(whole("train")[0], tmp_path / "run")
    same_command = arguments(
        "train", workdir, cell, "--config.checkpoint_every_steps=10"
    )
    newest = workdir / "checkpoints" / str(2 * STEPS)
    cut(arrays_file(newest))

    assert command(["evaluate", f"--workdir={workdir}"]) == 0
    out, err = capfd.readouterr()
    assert (
        json.loads(out.splitlines()[-1])["step"] == 20
        and f"step {2 * STEPS} is damaged" in err
    )
    assert newest.is_dir()  # evaluate moves nothing

    assert command(same_command) == 0
    out, err = capfd.readouterr()
    assert (
        f"the checkpoint of step {2 * STEPS} is damaged" in err
        and "moved the damaged checkpoint" in err
    )
    check_same_run(workdir, whole("train")[0])
    assert (workdir / "checkpoints_damaged" / str(2 * STEPS)).is_dir()

    for step in (workdir / "checkpoints").iterdir():
        cut(arrays_file(step))
    before = tree_of(workdir)
    for damaged in (same_command, ["evaluate", f"--workdir={workdir}"]):
        assert command(damaged) == 2
        assert (
            capfd.readouterr()
            .err.splitlines()[-1]
            .startswith("bnas_jax: error: no whole checkpoint in ")
        )
    assert tree_of(workdir) == before


def test_another_config_in_the_work_directory_is_refused(whole, cell, capfd):
    workdir, _ = whole("train")
    before = tree_of(workdir)
    assert (
        command(
            arguments("train", workdir, cell, "--config.optimizer.learning_rate=0.5")
        )
        == 2
    )
    assert (
        "config.optimizer.learning_rate is 0.5 now and 0.05 there"
        in capfd.readouterr().err
    )
    assert command(arguments("search", workdir, cell)) == 2
    assert "holds a training; choose another --workdir" in capfd.readouterr().err
    assert tree_of(workdir) == before


def test_a_run_that_diverges_ends_with_2_and_keeps_what_was_good(cell, tmp_path, capfd):
    options = (
        "--config.optimizer.learning_rate=1e30",
        "--config.optimizer.low_learning_rate=0.0",
    )
    assert (
        command(
            arguments(
                "train",
                tmp_path / "run",
                cell,
                "--config.checkpoint_every_steps=1",
                *options,
            )
        )
        == 2
    )
    out, err = capfd.readouterr()
    assert out == "" and "lower the learning rate" in err.splitlines()[-1]
    assert re.search(
        (
            r"; gradients stopped being finite at step \d+, probably that of "
            r"(stem|cell0|classifier)/\S+ first;"
        ),
        err.splitlines()[-1],
    )
    steps_left = sorted(
        int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir()
    )
    assert steps_left
    assert all(
        np.all(np.isfinite(leaf))
        for leaf in jax.tree.leaves(
            arrays(tmp_path / "run", steps_left[-1])["variables"]
        )
    )


@pytest.mark.long
def test_a_run_in_float64_is_so_throughout_and_near_that_in_float32(
    whole, cell, tmp_path
):
    """In a process of its own, as JAX's 64-bit mode is for a whole process."""
    workdir = tmp_path / "run"
    options = ("--config.precision=float64", "--config.num_epochs=1")
    exit_code, stdout, stderr = Process(
        *arguments("train", workdir, cell, *options)
    ).wait()
    assert exit_code == 0, stderr
    assert json.loads(stdout.splitlines()[-1])["steps"] == STEPS
    floats = [leaf for leaf in jax.tree.leaves(arrays(workdir, STEPS)["variables"])]
    assert {leaf.dtype for leaf in floats} == {np.dtype("float64")}
    assert any(np.any(leaf != leaf.astype(np.float32)) for leaf in floats)
    (record,) = records(workdir)
    assert record["train_loss"] == pytest.approx(
        records(whole("train")[0])[0]["train_loss"], abs=0.1
    )
