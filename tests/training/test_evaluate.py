"""Evaluation, and the network of a work directory."""

import contextlib
import dataclasses
import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import printed
from counted_runs import same
from image_files import write_folder
from small_runs import STEPS, read
from work_directories import CELL

import bnas_jax
from bnas_jax import settings
from bnas_jax.__main__ import run as command
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import Genotype
from bnas_jax.core.losses import cross_entropy, hits
from bnas_jax.core.network import Network
from bnas_jax.data.arrays import Arrays
from bnas_jax.data.augment import Augmentation
from bnas_jax.data.facts import Facts
from bnas_jax.data.readers import folder as folders
from bnas_jax.data.readers.encoded import ReadOptions
from bnas_jax.training import evaluate as evaluation
from bnas_jax.training.evaluate import Evaluator
from bnas_jax.training.run_data import dataset_of
from bnas_jax.training.state import initial_variables
from bnas_jax.training.workdir import WorkDir
from configs import search as search_configs
from configs import train as train_configs

pytestmark = pytest.mark.usefixtures("compiled_once")


def evaluated(capfd, *options: str) -> dict:
    return printed(capfd, "evaluate", *options)


def test_evaluate_gives_what_training_ended_with_from_the_checkpoint_asked_for(
    whole, capfd
):
    workdir, _ = whole("train")
    capfd.readouterr()
    summary = read(workdir / "summary.json")
    expected = {
        name: summary[name] for name in ("top1", "top5", "loss", "num_examples")
    } | {"step": 2 * STEPS}
    assert evaluated(capfd, f"--workdir={workdir}") == expected
    assert evaluated(capfd, f"--workdir={workdir}", f"--step={2 * STEPS}") == expected
    best = evaluated(capfd, f"--workdir={workdir}", "--step=best")
    assert best["top1"] == pytest.approx(summary["best_top1"])
    assert evaluated(capfd, f"--workdir={workdir}", "--step=20")["step"] == 20
    odd = evaluated(capfd, f"--workdir={workdir}", "--config.eval_batch_size=7")
    assert odd == pytest.approx(expected)


def test_a_run_of_several_processes_is_evaluated_by_one(whole, tmp_path, capfd):
    workdir, _ = whole("train")
    copy = shutil.copytree(workdir, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    config["distributed"] |= {
        "coordinator": "gone:1",
        "num_processes": 2,
        "process_id": 0,
    }
    (copy / "config.json").write_text(json.dumps(config))
    assert evaluated(capfd, f"--workdir={copy}")["step"] == 2 * STEPS


def test_a_network_with_rounded_activations_is_evaluated_in_float64(
    whole, tmp_path, capfd, monkeypatch
):
    """`evaluate` has no setting `activations`, with which it could be turned off."""
    workdir, _ = whole("train")
    copy = shutil.copytree(workdir, tmp_path / "copy")
    config = read(copy / "config.json") | {"activations": "bfloat16"}
    (copy / "config.json").write_text(json.dumps(config))
    # JAX's 64-bit mode is for a whole process: the settings alone are looked at.
    monkeypatch.setattr(
        evaluation,
        "evaluate",
        lambda workdir, run, which: {
            "precision": run.precision,
            "activations": run.activations,
        },
    )
    found = evaluated(capfd, f"--workdir={copy}", "--config.precision=float64")
    assert found == {"precision": "float64", "activations": None}
    same_precision = evaluated(capfd, f"--workdir={copy}")
    assert same_precision["activations"] == "bfloat16"


def test_load_gives_the_network_that_evaluate_evaluates(whole):
    """Its logits of the test images, normalised as the run's data."""
    workdir, _ = whole("train")
    summary = read(workdir / "summary.json")
    test = dataset_of(settings.from_config(read(workdir / "config.json")).dataset).test
    model, variables = bnas_jax.load(workdir)
    assert set(variables) == {"params", "batch_stats"} and model.channels == 2
    facts = read(workdir / "run.json")
    images = (test.images / 16 - np.array(facts["mean"])) / np.array(facts["std"])

    apply = jax.jit(lambda images: model.apply(variables, images, train=False))
    logits = apply(jnp.asarray(images, jnp.float32))
    assert float(jnp.mean(cross_entropy(logits, test.labels))) == pytest.approx(
        summary["loss"], rel=1e-4
    )
    for name, k in (("top1", 1), ("top5", 5)):
        assert 100 * float(jnp.mean(hits(logits, test.labels, k))) == pytest.approx(
            summary[name]
        )
    earlier = bnas_jax.load(workdir, step=20)[1]
    assert not same(earlier, variables)


@pytest.fixture
def a_search(tmp_path) -> pathlib.Path:
    """The work directory of a search that has just begun."""
    folder = tmp_path / "search"
    run = settings.from_config(search_configs.get_config("digits"))
    with contextlib.closing(WorkDir(folder)) as workdir:
        workdir.open(run, Facts(num_classes=10, image_shape=(8, 8, 1)))
    return folder


def test_load_takes_no_search_and_nothing_that_is_no_work_directory(
    whole, a_search, tmp_path
):
    with pytest.raises(
        UserError, match="holds a search; name the work directory of a training"
    ):
        bnas_jax.load(a_search)
    with pytest.raises(UserError, match="is not a work directory"):
        bnas_jax.load(tmp_path)
    with pytest.raises(UserError, match="no checkpoint of step 3"):
        bnas_jax.load(whole("train")[0], step="3")


def test_evaluate_takes_no_search_and_nothing_that_is_no_work_directory(
    whole, a_search, tmp_path, capfd
):
    for workdir, message in (
        (a_search, "holds a search"),
        (tmp_path, "is not a work directory"),
        (tmp_path / "nowhere", "is not a work directory"),
    ):
        capfd.readouterr()
        assert command(["evaluate", f"--workdir={workdir}"]) == 2
        assert message in capfd.readouterr().err
    for name in ("config.json", "run.json"):
        shutil.copy(whole("train")[0] / name, tmp_path)
    assert command(["evaluate", f"--workdir={tmp_path}"]) == 2
    assert "no checkpoint in" in capfd.readouterr().err


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_every_example_is_counted_once_whatever_the_batch(batch_size):
    draw = np.random.default_rng(0)
    images = draw.integers(0, 17, (5, 4, 4, 1), dtype=np.uint8)
    data = Arrays(images, draw.integers(0, 10, 5), num_classes=10, name="five")
    model = Network(Genotype(CELL, CELL), num_cells=1, channels=1, num_classes=10)
    variables = jax.jit(lambda: initial_variables(model, (4, 4, 1), 0))()
    run = settings.from_config(train_configs.get_config("digits"))
    evaluator = Evaluator(
        model,
        data,
        Augmentation((0.5,), (0.3,), 1 / 16),
        dataclasses.replace(run, eval_batch_size=batch_size),
    )
    result = evaluator(variables)
    logits = jax.jit(model.apply)(
        variables, jnp.asarray((images / 16 - 0.5) / 0.3, jnp.float32)
    )
    assert result["num_examples"] == 5
    assert result["top1"] == pytest.approx(
        100 * float(jnp.mean(logits.argmax(-1) == data.labels))
    )
    assert result["top5"] == pytest.approx(
        100 * float(jnp.mean(hits(logits, data.labels, 5)))
    )
    assert result["loss"] == pytest.approx(
        float(jnp.mean(cross_entropy(logits, data.labels))), rel=1e-4
    )


def test_a_stream_whose_images_are_all_left_out_is_refused(tmp_path):
    for file in write_folder(tmp_path, {"test/a": 1, "test/b": 1}).rglob("*.png"):
        file.write_text("no image")
    options = ReadOptions(image_size=4, channels=1, in_memory_mib=0, skip_bad=True)
    model = Network(Genotype(CELL, CELL), num_cells=1, channels=1, num_classes=2)
    evaluator = Evaluator(
        model,
        folders.read(tmp_path, options)["test"],
        Augmentation((0.5,), (0.3,), 1 / 255),
        settings.from_config(train_configs.get_config("digits")),
    )
    variables = jax.jit(lambda: initial_variables(model, (4, 4, 1), 0))()
    with pytest.raises(UserError, match="test: there is no image that decodes"):
        evaluator(variables)
