"""`export` and `predict` on a real run: the packed file classifies as the work
directory's checkpoint does.
"""

import csv
import dataclasses
import errno
import json
import pathlib
import re
import shutil

import jax
import numpy as np
import pytest
from commands import error, printed
from documents import README, blocks
from numpy_networks import logits_of_document
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from small_runs import STEPS, read

from bnas_jax.cli.predict import _first
from bnas_jax.core.errors import UserError
from bnas_jax.core.ops.packed import Kernel
from bnas_jax.data.load import load
from bnas_jax.data.readers import images
from bnas_jax.deploy import export as export_module
from bnas_jax.deploy.load import read as read_model
from bnas_jax.deploy.predict import Predictions, predict, read_images, write
from bnas_jax.training.workdir import WorkDir

pytestmark = pytest.mark.usefixtures("quick_compilation", "own_compilation_cache")


def pixels_of(path: pathlib.Path, network) -> np.ndarray:
    ((_, pixels),) = read_images(str(path), network).batches(1)
    return pixels


def test_export_says_what_it_wrote(workdir, tmp_path, capfd):
    out = tmp_path / "net.bnas"
    found = printed(
        capfd, "export", f"--workdir={workdir}", f"--out={out}", "--step=last"
    )
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
    options = (
        f"--model={exported}",
        f"--input={tmp_path / 'images.npy'}",
        f"--out={out}",
    )
    # A last batch that is not full.
    found = printed(capfd, "predict", *options, "--batch_size=100")
    assert found == {"num_examples": 360, "out": str(out)}
    with np.load(out) as stored:
        classes = stored["classes"][stored["logits"].argmax(-1)]
        assert stored["names"][7] == "images.npy[7]"
    top1 = 100 * np.mean(classes.astype(int) == test.labels)
    assert top1 == pytest.approx(read(workdir / "summary.json")["top1"])
    of_checkpoint = printed(capfd, "evaluate", f"--workdir={workdir}")
    of_file = printed(capfd, "evaluate", f"--model={exported}")
    assert of_checkpoint["top1"] == pytest.approx(top1)
    assert of_checkpoint == pytest.approx({**of_file, "step": STEPS})

    # By the functions of the package, too, as the README does.
    (lines,) = [
        block.text for block in blocks(README) if "bnas.load_packed(" in block.text
    ]
    given = lines.replace('np.zeros((2, *facts["image_shape"]))', "test.images[:3]")
    assert given != lines
    names: dict = {"test": test}
    exec(given.replace("runs/digits.bnas", str(exported)), names)
    assert names["facts"]["mean"] == read(workdir / "run.json")["mean"]
    assert np.array_equal(names["classes"], classes[:3].astype(int))


def test_the_document_s_lines_give_the_logits_without_jax(exported, tmp_path, capfd):
    np.save(tmp_path / "images.npy", load("digits").test.images[:50])
    shutil.copy(exported, tmp_path / "digits.bnas")
    _, ours = logits_of_document(tmp_path)
    out = tmp_path / "logits.npz"
    options = (f"--input={tmp_path / 'images.npy'}", f"--out={out}")
    assert printed(capfd, "predict", f"--model={exported}", *options)
    with np.load(out) as stored:
        np.testing.assert_allclose(ours, stored["logits"], rtol=1e-4, atol=1e-5)


def test_image_files_are_brought_to_the_networks_size(exported, tmp_path, capfd):
    """A digit as a picture of 255 gray levels and 32x32 pixels, in a folder within a
    folder.
    """
    digits = load("digits").test
    folder = tmp_path / "photos" / "below"
    folder.mkdir(parents=True)
    for number in range(3):
        gray = (digits.images[number, ..., 0] * 255.0 / 16).astype(np.uint8)
        Image.fromarray(gray).save(folder / f"{number}.png")
    large = Image.fromarray(gray).resize((32, 32), Image.Resampling.NEAREST)
    large.convert("RGB").save(tmp_path / "photos" / "large.png")
    np.save(tmp_path / "same.npy", digits.images[:3])

    found = printed(
        capfd, "predict", f"--model={exported}", f"--input={tmp_path / 'photos'}"
    )
    names = [row["image"] for row in found["predictions"]]
    assert names == ["below/0.png", "below/1.png", "below/2.png", "large.png"]
    arrays = printed(
        capfd, "predict", f"--model={exported}", f"--input={tmp_path / 'same.npy'}"
    )
    of_files = [row["class"] for row in found["predictions"]]
    assert of_files[:3] == [row["class"] for row in arrays["predictions"]]
    # The large one is the third digit, four times as wide.
    assert of_files[3] == of_files[2]
    assert found["predictions"][3] != found["predictions"][2], (
        "resized, it is not quite the same"
    )
    single = printed(
        capfd, "predict", f"--model={exported}", f"--input={folder / '1.png'}"
    )
    assert single["predictions"][0]["class"] == of_files[1]

    out = tmp_path / "all.csv"
    printed(
        capfd, "predict", f"--model={exported}", f"--input={folder}", f"--out={out}"
    )
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == of_files[:3]
    assert all(0 < float(row["probability"]) <= 1 for row in rows)


@pytest.mark.parametrize(
    "precision", [pytest.param("float64", marks=pytest.mark.long), "bfloat16"]
)
def test_a_precision_of_another_run(workdir, exported, precision, capfd):
    """Evaluated in it, the file gives what the checkpoint gives."""
    option = f"--config.precision={precision}"
    try:
        of_file = printed(capfd, "evaluate", f"--model={exported}", option)
        of_checkpoint = printed(capfd, "evaluate", f"--workdir={workdir}", option)
    finally:
        jax.config.update("jax_enable_x64", False)
    assert {**of_file, "step": STEPS} == pytest.approx(of_checkpoint, rel=1e-5)


@pytest.mark.parametrize("parallel", ["shard_map", "pmap"])
def test_a_packed_network_is_evaluated_on_mapped_devices(exported, parallel, capfd):
    model = f"--model={exported}"
    mapped = printed(capfd, "evaluate", model, f"--config.parallel={parallel}")
    assert mapped == pytest.approx(printed(capfd, "evaluate", model))


def test_a_gray_image_needs_no_axes(exported, tmp_path, capfd):
    pixels = load("digits").test.images[3, ..., 0]
    np.save(tmp_path / "IMAGE.NPY", pixels)
    (tmp_path / "IMAGE.NPY.npy").rename(tmp_path / "IMAGE.NPY")
    np.save(tmp_path / "images.npy", pixels[None, ..., None])
    single, several = (
        printed(capfd, "predict", f"--model={exported}", f"--input={tmp_path / name}")
        for name in ("IMAGE.NPY", "images.npy")
    )
    assert single["predictions"][0]["class"] == several["predictions"][0]["class"]


def test_a_size_that_was_set_is_the_centre_of_a_larger_one(exported, tmp_path):
    """As `Encoded.example` makes it in an evaluation, for images of the network's size,
    too.
    """
    network = read_model(str(exported), ())
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4).save(
        tmp_path / "a.png"
    )
    (as_it_is,) = pixels_of(tmp_path / "a.png", network)
    dataset = dataclasses.replace(
        network.run.dataset, name="folder", image_size=8, resize=16
    )
    zoomed = network._replace(run=dataclasses.replace(network.run, dataset=dataset))
    (centre,) = pixels_of(tmp_path / "a.png", zoomed)
    assert np.array_equal(centre, images.centre(as_it_is, side=8, resize=16))
    assert not np.array_equal(centre, as_it_is)


def test_images_that_do_not_decode_are_left_out_where_the_run_left_them_out(
    exported, tmp_path, capfd, monkeypatch
):
    digits = load("digits").test.images[..., 0]
    for number in range(5):
        Image.fromarray(digits[number] * 15).save(tmp_path / f"{number}.png")
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:40])
    (tmp_path / "5.heic").touch()
    (tmp_path / "6.png").symlink_to("nowhere.png")
    network = read_model(str(exported), ())
    with pytest.raises(UserError, match=r"2.png does not decode .*; replace the image"):
        predict(network, read_images(str(tmp_path), network))

    dataset = dataclasses.replace(network.run.dataset, name="folder", bad_images="skip")
    lenient = network._replace(run=dataclasses.replace(network.run, dataset=dataset))
    capfd.readouterr()
    # Batches of two: the bad one does not leave a gap.
    found = predict(lenient, read_images(str(tmp_path), lenient), batch_size=2)
    assert found.names == (
        "0.png",
        "1.png",
        "3.png",
        "4.png",
    ) and found.logits.shape == (4, 10)
    left_out = capfd.readouterr().err
    assert f"{tmp_path}: left out 1 files that are not images (1 .heic)" in left_out
    for name in ("2.png", "6.png"):
        assert re.search(f"^left out: .*{name}", left_out, re.MULTILINE)
    whole = predict(lenient, read_images(str(tmp_path / "3.png"), lenient))
    np.testing.assert_allclose(whole.logits[0], found.logits[2], rtol=1e-5)

    # A disk that cannot be read is no bad image.
    def fails(path):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(pathlib.Path, "read_bytes", fails)
    with pytest.raises(UserError, match=r"cannot read .*0.png \(Input/output error"):
        predict(lenient, read_images(str(tmp_path), lenient))


def test_arrays_that_the_network_has_not_are_named(exported, tmp_path, capfd):
    path = tmp_path / "net.bnas"
    # Without the hashes, by which any change would be noticed.
    with safe_open(exported, framework="numpy") as file:
        header = json.loads(file.metadata()["bnas_jax_packed"])
    del header["sha256"], header["header_sha256"]
    metadata = {"bnas_jax_packed": json.dumps(header)}
    arrays = load_file(exported)
    operand = next(name for name in arrays if name.endswith("operand0"))
    image = f"--input={tmp_path / 'image.npy'}"
    np.save(tmp_path / "image.npy", load("digits").test.images[:1])
    for name, changed in {
        operand: arrays[operand][:1],
        "params/stem/more": np.ones(2),
    }.items():
        save_file(arrays | {name: changed}, path, metadata=metadata)
        message = error(capfd, "predict", f"--model={path}", image)
        assert (
            f"{path} is damaged: {name.replace('operand0', 'operands')} has the shape"
            in message
        )
    del arrays[operand]
    save_file(arrays, path, metadata=metadata)
    assert "is damaged" in error(capfd, "evaluate", f"--model={path}")


def test_settings_of_another_version_say_which_one_wrote_them(
    exported, tmp_path, capfd
):
    with safe_open(exported, framework="numpy") as file:
        header = json.loads(file.metadata()["bnas_jax_packed"])
    del header["header_sha256"]
    header["settings"]["network"]["gates"] = 2
    path = tmp_path / "net.bnas"
    for version, advice in {
        header["bnas_jax"]: "); export it again",
        "9.9.0": "); bnas-jax 9.9.0 wrote it, this is ",
    }.items():
        metadata = {"bnas_jax_packed": json.dumps({**header, "bnas_jax": version})}
        save_file(load_file(exported), path, metadata=metadata)
        message = error(capfd, "evaluate", f"--model={path}")
        assert "gates is not a setting" in message and advice in message


def test_the_file_says_nothing_of_the_machine(exported):
    with safe_open(exported, framework="numpy") as file:
        header = json.loads(file.metadata()["bnas_jax_packed"])
    assert header["settings"]["dataset"].get("path") is None
    assert set(header["facts"]) == {
        "num_classes",
        "image_shape",
        "mean",
        "std",
        "class_names",
    }
    assert str(exported.parent) not in json.dumps(header)


def test_a_packed_network_of_other_logits_is_not_written(
    workdir, tmp_path, capfd, monkeypatch
):
    """Here one with all bits turned."""
    pack = export_module.pack

    def turned(*arguments, **options):
        is_kernel = lambda leaf: isinstance(leaf, Kernel)
        turn = lambda leaf: leaf.replace(words=~leaf.words) if is_kernel(leaf) else leaf
        return jax.tree.map(turn, pack(*arguments, **options), is_leaf=is_kernel)

    monkeypatch.setattr(export_module, "pack", turned)
    message = error(
        capfd, "export", f"--workdir={workdir}", f"--out={tmp_path / 'x.bnas'}"
    )
    assert "logits differ by" in message and "nothing was written" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("noted", [None, "x", ["x"], [{"file": 1}]])
def test_extensions_that_are_not_noted_as_a_run_does_are_none(tmp_path, noted):
    facts = {"num_classes": 2, "image_shape": [8, 8, 1], "extensions": noted}
    (tmp_path / "run.json").write_text(json.dumps(facts))
    assert export_module._extensions_of(WorkDir(tmp_path)) == ()


def test_weights_that_are_not_finite_are_refused(workdir, tmp_path, capfd, monkeypatch):
    restore = export_module.restore

    def with_nan(directory, *, step):
        found = restore(directory, step=step)
        spoiled = jax.tree.map(lambda leaf: leaf * np.nan, found.variables)
        return found._replace(variables=spoiled)

    monkeypatch.setattr(export_module, "restore", with_nan)
    message = error(
        capfd, "export", f"--workdir={workdir}", f"--out={tmp_path / 'x.bnas'}"
    )
    assert "are not all finite; choose another --step" in message


def test_mistakes_are_answered_in_one_line(workdir, exported, tmp_path, capfd):
    model, out = f"--model={exported}", f"--out={tmp_path / 'x.bnas'}"
    np.save(tmp_path / "float.npy", np.zeros((2, 8, 8, 1), np.float32))
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty").mkdir()
    np.save(tmp_path / "white.npy", np.full((2, 8, 8, 1), 255, np.uint8))
    np.savez(tmp_path / "archive.npz", np.zeros(3))
    (tmp_path / "archive.npz").rename(tmp_path / "archive.npy")
    Image.fromarray(np.full((8, 8), 1000, np.uint16)).save(tmp_path / "deep.png")
    # Headers that say another shape: of more images than any memory holds, and one that
    # is cut.
    header = np.lib.format.magic(1, 0) + (118).to_bytes(2, "little")
    for name, shape in {
        "many": "(1000000000000, 8, 8, 1), }",
        "cut": "(8, 8, 1",
    }.items():
        text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}"
        (tmp_path / f"{name}.npy").write_bytes(
            header + text.ljust(117).encode() + b"\n"
        )
    cases = {
        ("export", out): "--workdir is missing",
        ("export", f"--workdir={workdir}"): "--out is missing",
        ("export", f"--workdir={tmp_path}", out): "is not a work directory",
        ("export", f"--workdir={workdir}", out, "--step=3"): "step 3",
        (
            "export",
            f"--workdir={workdir}",
            f"--out={tmp_path}/none/x",
        ): "there is no folder",
        ("evaluate", model, "--step=best"): "leave --step out",
        ("evaluate", "--model=none"): "there is no file none",
        ("predict", model): "--input is missing",
        ("predict", "--input=a.npy"): "--model is missing",
        ("predict", "--model=none", "--input=a.npy"): "there is no file none",
        ("predict", model, "--input=none.npy"): "there is no none.npy",
        (
            "predict",
            model,
            f"--input={tmp_path / 'float.npy'}",
        ): "takes pixels uint8 (N, 8, 8, 1)",
        ("predict", model, f"--input={tmp_path / 'text.png'}"): "does not decode",
        ("predict", model, f"--input={tmp_path / 'empty'}"): "contains no image",
        ("predict", model, f"--input={tmp_path / 'white.npy'}"): "numbers up to 255",
        (
            "predict",
            model,
            f"--input={tmp_path / 'archive.npy'}",
        ): "is not a complete .npy file",
        ("predict", model, f"--input={tmp_path / 'many.npy'}"): "not a complete .npy",
        ("predict", model, f"--input={tmp_path / 'cut.npy'}"): "not a complete .npy",
        (
            "predict",
            model,
            f"--input={tmp_path / 'deep.png'}",
        ): "deep.png has more than 8 bits",
        ("predict", model, "--input=a.npy", "--out=a.txt"): "must end in .csv or .npz",
        ("predict", model, "--input=a.npy", "--batch_size=0"): "at least 1",
    }
    for words, message in cases.items():
        assert message in error(capfd, *words), words
    assert not (tmp_path / "x.bnas").exists()


def test_the_likeliest_classes_stand_one_below_the_other(tmp_path):
    logits = np.log([[0.2, 0.5, 0.3], [0.25, 0.25, 0.5]])
    predictions = Predictions(("a", "b"), ("x", "y", "z"), logits)
    classes = lambda top: [label for _, label, _ in predictions.rows(top)]
    assert classes(1) == ["y", "z"] and classes(2) == ["y", "z", "z", "x"]
    assert len(classes(100)) == 6
    write(tmp_path / "out.csv", predictions, top=2)
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[1:3] == ["a,y,0.500000", "a,z,0.300000"]
    assert [row["class"] for row in _first(predictions, top=100)] == classes(3)
