"""`export` and `predict` on a real run: the packed file classifies as the work directory's checkpoint does."""

import csv
import json
import pathlib

import numpy as np
import pytest
from PIL import Image
from small_runs import STEPS, arguments, read
from work_directories import CELL

import bnas_jax
from bnas_jax.__main__ import run as command
from bnas_jax.data.load import load

pytestmark = pytest.mark.usefixtures("quick_compilation", "own_compilation_cache")


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


def result(capfd, *words: str) -> dict:
    capfd.readouterr()
    assert command(list(words)) == 0
    return json.loads(capfd.readouterr().out.splitlines()[-1])


def error(capfd, *words: str) -> str:
    capfd.readouterr()
    assert command(list(words)) == 2
    (line,) = capfd.readouterr().err.splitlines()
    return line


def test_export_says_what_it_wrote(workdir, tmp_path, capfd):
    out = tmp_path / "net.bnas"
    found = result(capfd, "export", f"--workdir={workdir}", f"--out={out}", "--step=last")
    assert found["step"] == STEPS and found["out"] == str(out)
    assert found["bytes"] == out.stat().st_size
    binary, floats = found["binary_weights"], found["float_numbers"]
    assert found["float_bytes"] == 4 * (binary + floats)
    # The header is some thousand letters.
    assert binary / 8 + 4 * floats < found["bytes"] < binary / 8 + 4 * floats + 20_000
    assert found["largest_difference"] < 1e-5


def test_predictions_are_as_good_as_the_evaluation(workdir, exported, tmp_path, capfd):
    test = load("digits").test
    np.save(tmp_path / "images.npy", test.images)
    out = tmp_path / "predictions.npz"
    options = (f"--model={exported}", f"--input={tmp_path / 'images.npy'}", f"--out={out}")
    # A last batch that is not full.
    found = result(capfd, "predict", *options, "--batch_size=100")
    assert found == {"num_examples": 360, "out": str(out)}
    with np.load(out) as stored:
        classes = stored["classes"][stored["logits"].argmax(-1)]
        assert stored["names"][7] == "images.npy[7]"
    top1 = 100 * np.mean(classes.astype(int) == test.labels)
    assert top1 == pytest.approx(read(workdir / "summary.json")["top1"])
    of_checkpoint = result(capfd, "evaluate", f"--workdir={workdir}")
    of_file = result(capfd, "evaluate", f"--model={exported}")
    assert of_checkpoint["top1"] == pytest.approx(top1)
    assert of_checkpoint == pytest.approx({**of_file, "step": STEPS})

    # By the functions of the package, too.
    model, variables = bnas_jax.load_packed(exported)
    facts = read(workdir / "run.json")
    images = (test.images[:3] / 16 - np.array(facts["mean"])) / np.array(facts["std"])
    logits = model.apply(variables, images.astype(np.float32), train=False)
    assert np.array_equal(logits.argmax(-1), classes[:3].astype(int))


def test_image_files_are_brought_to_the_networks_size(exported, tmp_path, capfd):
    """A digit as a picture of 255 gray levels and 32x32 pixels, in a folder within a folder."""
    digits = load("digits").test
    folder = tmp_path / "photos" / "below"
    folder.mkdir(parents=True)
    for number in range(3):
        gray = (digits.images[number, ..., 0] * 255.0 / 16).astype(np.uint8)
        Image.fromarray(gray).save(folder / f"{number}.png")
    large = Image.fromarray(gray).resize((32, 32), Image.Resampling.NEAREST)
    large.convert("RGB").save(tmp_path / "photos" / "large.png")
    np.save(tmp_path / "same.npy", digits.images[:3])

    found = result(capfd, "predict", f"--model={exported}", f"--input={tmp_path / 'photos'}")
    names = [row["image"] for row in found["predictions"]]
    assert names == ["below/0.png", "below/1.png", "below/2.png", "large.png"]
    arrays = result(capfd, "predict", f"--model={exported}", f"--input={tmp_path / 'same.npy'}")
    of_files = [row["class"] for row in found["predictions"]]
    assert of_files[:3] == [row["class"] for row in arrays["predictions"]]
    single = result(capfd, "predict", f"--model={exported}", f"--input={folder / '1.png'}")
    assert single["predictions"][0]["class"] == of_files[1]

    out = tmp_path / "all.csv"
    result(capfd, "predict", f"--model={exported}", f"--input={folder}", f"--out={out}")
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == of_files[:3]
    assert all(0 < float(row["probability"]) <= 1 for row in rows)


def test_mistakes_are_answered_in_one_line(workdir, exported, tmp_path, capfd):
    model, out = f"--model={exported}", f"--out={tmp_path / 'x.bnas'}"
    np.save(tmp_path / "float.npy", np.zeros((2, 8, 8, 1), np.float32))
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty").mkdir()
    cases = {
        ("export", out): "--workdir is missing",
        ("export", f"--workdir={workdir}"): "--out is missing",
        ("export", f"--workdir={tmp_path}", out): "is no work directory",
        ("export", f"--workdir={workdir}", out, "--step=3"): "step 3",
        ("export", f"--workdir={workdir}", f"--out={tmp_path}/none/x"): "there is no folder",
        ("evaluate", model, "--step=best"): "leave --step out",
        ("evaluate", "--model=none"): "there is no file none",
        ("predict", model): "--input is missing",
        ("predict", "--input=a.npy"): "--model is missing",
        ("predict", "--model=none", "--input=a.npy"): "there is no file none",
        ("predict", model, "--input=none.npy"): "there is no none.npy",
        ("predict", model, f"--input={tmp_path / 'float.npy'}"): "takes pixels uint8 (N, 8, 8, 1)",
        ("predict", model, f"--input={tmp_path / 'text.png'}"): "does not decode",
        ("predict", model, f"--input={tmp_path / 'empty'}"): "holds no image",
        ("predict", model, "--input=a.npy", "--out=a.txt"): "must end in .csv or .npz",
        ("predict", model, "--input=a.npy", "--batch_size=0"): "at least 1",
    }
    for words, message in cases.items():
        assert message in error(capfd, *words), words
    assert not (tmp_path / "x.bnas").exists()
