"""A program that `export --format=program` wrote, run where this package is not."""

import functools
import pathlib
import subprocess
import sys
from collections.abc import Callable

import flax.linen as nn
import jax
import numpy as np
import pytest
from commands import error, printed
from documents import ROOT, blocks
from small_runs import STEPS

import bnas_jax as bnas
from bnas_jax.__main__ import run as command
from bnas_jax.baselines.small_cnn import SmallCnnSettings
from bnas_jax.core.errors import UserError
from bnas_jax.data.facts import Facts
from bnas_jax.data.load import load
from bnas_jax.deploy.pixels import logits_of_pixels
from bnas_jax.deploy.program import Target, program

pytestmark = pytest.mark.usefixtures("quick_compilation", "own_compilation_cache")


@pytest.fixture(scope="module")
def written(workdir) -> pathlib.Path:
    out = workdir.parent / "digits.program"
    words = ["export", f"--workdir={workdir}", f"--out={out}", "--format=program"]
    assert command(words) == 0
    return out


def test_the_document_s_lines_give_the_packed_network_s_logits(
    written, exported, tmp_path
):
    """Without this package, which the folder of the process does not have."""
    test = load("digits").test
    np.save(tmp_path / "images.npy", test.images[:5])
    options = (
        f"--model={exported}",
        f"--input={tmp_path / 'images.npy'}",
        f"--out={tmp_path / 'logits.npz'}",
    )
    assert command(["predict", *options]) == 0
    with np.load(tmp_path / "logits.npz") as stored:
        theirs = stored["logits"]

    # The lines of docs/packed.md, and what is left of them.
    document = ROOT / "docs" / "packed.md"
    (lines,) = [block.text for block in blocks(document) if "deserialize" in block.text]
    lines += """
import sys
assert not any(name.startswith("bnas_jax") for name in sys.modules)
parts = [program.call(images[:2]), program.call(images[2:])]
np.save("ours.npy", np.concatenate(parts))
"""
    (tmp_path / "digits.program").write_bytes(written.read_bytes())
    process = [sys.executable, "-I", "-c", lines]
    subprocess.run(process, cwd=tmp_path, check=True)
    ours = np.load(tmp_path / "ours.npy")
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_it_says_what_it_wrote(workdir, tmp_path, capfd):
    out = tmp_path / "digits.program"
    words = ["export", f"--workdir={workdir}", f"--out={out}", "--format=program"]
    found = printed(capfd, *words)
    assert found["bytes"] == out.stat().st_size and found["step"] == STEPS
    assert found["largest_difference"] < 1e-5


def test_a_program_of_one_platform_and_number_of_images_gives_the_same_logits(
    written, workdir, tmp_path
):
    out = tmp_path / "two.program"
    words = ["export", f"--workdir={workdir}", f"--out={out}", "--format=program"]
    assert command([*words, "--platforms=cpu", "--batch_size=2"]) == 0
    pixels = load("digits").test.images[:2]
    of_two = jax.export.deserialize(bytearray(out.read_bytes()))
    assert of_two.platforms == ("cpu",) and of_two.in_avals[0].shape == pixels.shape
    of_any = jax.export.deserialize(bytearray(written.read_bytes()))
    np.testing.assert_allclose(of_two.call(pixels), of_any.call(pixels), rtol=1e-4)


def test_another_format_is_refused(workdir, tmp_path, capfd):
    out = tmp_path / "digits.onnx"
    words = ["export", f"--workdir={workdir}", f"--out={out}", "--format=onnx"]
    assert "--format must be one of packed, program, got 'onnx'" in error(capfd, *words)


def test_without_flatbuffers_it_says_what_to_install(
    workdir, tmp_path, capfd, monkeypatch
):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    out = tmp_path / "digits.program"
    words = ["export", f"--workdir={workdir}", f"--out={out}", "--format=program"]
    assert command(words) == 2
    assert "pip install flatbuffers" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


FACTS = Facts(num_classes=3, image_shape=(8, 8, 1), mean=(0.5,), std=(0.25,))


def of_network(network: nn.Module, target: Target = Target()) -> jax.export.Exported:
    """The program of a network, whose weights are 1."""
    images = jax.ShapeDtypeStruct((1, *FACTS.image_shape), np.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), images)
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes)
    logits_of = logits_of_pixels(network, FACTS, white=255, source="a test")
    written = program(functools.partial(logits_of, ones), FACTS.image_shape, target)
    return jax.export.deserialize(bytearray(written))


def test_dense_layers_on_all_pixels_take_any_number_of_images():
    small = SmallCnnSettings(widths=(2, 2), dense=(4,))
    network = small.build(
        num_classes=3, scheme=bnas.Xnor(), arithmetic=bnas.Arithmetic()
    )
    (pixels,) = of_network(network).in_avals
    assert not isinstance(pixels.shape[0], int) and pixels.shape[1:] == (8, 8, 1)


class Own(nn.Module):
    """A network that is a function of the images."""

    function: Callable
    arithmetic: bnas.Arithmetic = bnas.Arithmetic()

    @nn.compact
    def __call__(self, images, *, train: bool = False):
        return self.function(images)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.reshape(len(x), -1),
        lambda x: x if x.shape[0] > 4 else 2 * x,
        lambda x: jax.pure_callback(np.abs, jax.ShapeDtypeStruct(x.shape, x.dtype), x),
    ],
)
def test_a_network_that_no_program_can_hold_is_refused_in_one_line(function):
    """It needs to know the number of images, or calls Python."""
    with pytest.raises(UserError, match="cannot be written as one program") as error:
        of_network(Own(function))
    assert "\n" not in error.value.args[0]
    assert error.value.args[0].endswith("or leave --format out")


def test_a_network_that_needs_the_number_of_images_is_written_for_one_number():
    flat = Own(lambda x: x.reshape(len(x), -1))
    (pixels,) = of_network(flat, Target(batch_size=3)).in_avals
    assert pixels.shape == (3, 8, 8, 1)
