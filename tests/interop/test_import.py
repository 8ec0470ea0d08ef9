"""Checkpoints of the authors' code: read from each kind of file, brought into a work
directory, and as good there.
"""

import contextlib
import importlib.util
import json
import pathlib
import re
import shutil
import zipfile

import jax
import numpy as np
import pytest
import safetensors.numpy

from bnas_jax import settings
from bnas_jax.__main__ import run
from bnas_jax.core.errors import UserError
from bnas_jax.interop import checkpoint_files
from bnas_jax.training import build, checksums
from bnas_jax.training.checkpoint_reader import CheckpointReader
from bnas_jax.training.state import initial_variables
from bnas_jax.training.workdir import WorkDir

# ml_collections loads a config's file so.
pytestmark = [
    pytest.mark.filterwarnings(
        r"ignore:the load_module\(\) method is deprecated:DeprecationWarning"
    ),
    pytest.mark.usefixtures("own_compilation_cache", "quick_compilation"),
]

SIZES = ["--preset=mini", "--config.network.channels=4", "--config.network.num_cells=5"]
IMAGENET_SIZES = [
    "--preset=d",
    "--config.network.channels=4",
    "--config.network.num_cells=6",
]


@pytest.fixture(scope="module")
def released(reference) -> dict[str, np.ndarray]:
    """A checkpoint of the released code, with images and its logits for them."""
    with np.load(reference / "cifar_net_c4_l5_latest_cell_zeroise.npz") as stored:
        return dict(stored)


@pytest.fixture(scope="module")
def state(released) -> dict[str, np.ndarray]:
    """The checkpoint alone, by the names of its state_dict."""
    return {
        name.removeprefix("state."): value
        for name, value in released.items()
        if name.startswith("state.")
    }


@pytest.fixture(scope="module")
def files(state, tmp_path_factory) -> pathlib.Path:
    """The checkpoint as .npz, and as .safetensors as DataParallel names it."""
    folder = tmp_path_factory.mktemp("files")
    np.savez(folder / "net.npz", **state)
    arrays = {
        f"module.{name}": np.array(value, order="C") for name, value in state.items()
    }
    safetensors.numpy.save_file(arrays, folder / "net.safetensors")
    return folder


def imports(checkpoint: pathlib.Path, workdir: pathlib.Path, *options: str) -> int:
    """The exit code of `import`."""
    places = [f"--checkpoint={checkpoint}", f"--workdir={workdir}"]
    return run(["import", *places, *SIZES, *options])


@pytest.fixture(scope="module")
def imported(files, tmp_path_factory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("imported") / "run"
    assert imports(files / "net.npz", workdir) == 0
    return workdir


def variables_in(workdir: pathlib.Path, image_shape=(16, 16, 3)):
    """(the network, its variables) as `evaluate` finds them."""
    directory = WorkDir(workdir)
    model = build.network(
        settings.from_config(directory.config()), directory.facts()["num_classes"]
    )
    shapes = jax.eval_shape(lambda: initial_variables(model, image_shape, 0))
    step, variables = CheckpointReader(directory.checkpoints).restore_variables(
        shapes, "last"
    )
    assert step == 0
    return model, variables


# Files


def test_npz_and_safetensors_hold_the_same_arrays(files, state):
    for name, prefix in (("net.npz", ""), ("net.safetensors", "module.")):
        arrays = checkpoint_files.read(str(files / name))
        assert arrays.keys() == {prefix + key for key in state}
        assert all(
            np.array_equal(arrays[prefix + key], value) for key, value in state.items()
        )


@pytest.mark.parametrize("name", ["net.pt", "net.pth", "checkpoint.pth.tar"])
def test_a_pytorch_file_needs_pytorch_and_says_so(tmp_path, name):
    """The file is empty: where PyTorch is installed, that is what is wrong with it."""
    (tmp_path / name).write_bytes(b"")
    absent = (
        rf"{re.escape(name)} needs PyTorch: pip install torch, or convert it to \.npz "
        r"or \.safetensors"
    )
    with pytest.raises(
        UserError,
        match="not a complete PyTorch file"
        if importlib.util.find_spec("torch")
        else absent,
    ):
        checkpoint_files.read(str(tmp_path / name))


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_a_file_cut_short_is_refused_wherever_it_was_cut(files, tmp_path, suffix):
    whole = (files / f"net.{suffix}").read_bytes()
    for size in (0, 1, 7, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / f"cut.{suffix}").write_bytes(whole[:size])
        with pytest.raises(
            UserError, match=rf"cut\.{suffix} is not a complete \.{suffix} file"
        ):
            checkpoint_files.read(str(tmp_path / f"cut.{suffix}"))


def test_flipped_bytes_of_an_npz_file_are_noticed_or_harmless(state, tmp_path):
    arrays = {name: state[name] for name in ("classifier.weight", "stem.bn.weight")}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "net.npz", **arrays)
        whole = (tmp_path / "net.npz").read_bytes()
        for position in range(0, len(whole), 13):
            (tmp_path / "net.npz").write_bytes(
                whole[:position]
                + bytes([whole[position] ^ 0xFF])
                + whole[position + 1 :]
            )
            with contextlib.suppress(UserError):
                found = checkpoint_files.read(str(tmp_path / "net.npz"))
                assert all(
                    np.array_equal(found[name], arrays[name])
                    for name in found.keys() & arrays.keys()
                )


def safetensors_file(path: pathlib.Path, dtype: str, data: bytes) -> str:
    header = json.dumps(
        {"w": {"dtype": dtype, "shape": [1], "data_offsets": [0, len(data)]}}
    ).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return str(path)


def test_bfloat16_is_read_and_numbers_that_numpy_lacks_are_refused(tmp_path):
    half = checkpoint_files.read(
        safetensors_file(tmp_path / "half.safetensors", "BF16", b"\x40\x3f")
    )
    assert float(half["w"][0]) == 0.75
    for dtype, data in (("F12", b"\0\0"), ("F8_E4M3", b"\0")):
        with pytest.raises(UserError, match="numbers that NumPy has"):
            checkpoint_files.read(
                safetensors_file(tmp_path / "other.safetensors", dtype, data)
            )


@pytest.mark.parametrize("shape", ["9" * 40, "True", "-1"])
def test_a_shape_that_no_array_has_is_damage(tmp_path, shape):
    header = (
        f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape},)}}\n".encode()
    )
    with zipfile.ZipFile(tmp_path / "net.npz", "w") as file:
        file.writestr(
            "w.npy",
            b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + b"\0" * 64,
        )
    with pytest.raises(UserError, match="is not a complete"):
        checkpoint_files.read(str(tmp_path / "net.npz"))


def test_what_holds_no_numbers_is_left_out(tmp_path):
    others = {
        "a": np.array(["a"]),
        "b": np.ones(1, np.complex64),
        "c": np.zeros(1, [("a", "f4")]),
    }
    np.savez(tmp_path / "net.npz", **others, weights=np.ones(2))
    with zipfile.ZipFile(tmp_path / "net.npz", "a") as file:
        file.writestr("notes.txt", "of the training")
    assert list(checkpoint_files.read(str(tmp_path / "net.npz"))) == ["weights"]


def test_objects_in_a_file_are_not_unpickled(tmp_path):
    np.savez(tmp_path / "net.npz", weights=np.array([{"a": 1}], dtype=object))
    with pytest.raises(UserError, match="plain arrays"):
        checkpoint_files.read(str(tmp_path / "net.npz"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.npz", "there is no checkpoint"),
        (
            "net.bin",
            r"--checkpoint takes \.pt, \.pth, \.pth\.tar, \.npz, \.safetensors",
        ),
        ("empty.npz", "contains no arrays"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, name, message):
    (tmp_path / "net.bin").write_bytes(b"")
    np.savez(tmp_path / "empty.npz")
    with pytest.raises(UserError, match=message):
        checkpoint_files.read(str(tmp_path / name))


# Import


def assert_released_logits(workdir, arrays):
    """`head` is the released code as it is."""
    images = arrays["x"].transpose(0, 2, 3, 1)
    model, variables = variables_in(workdir, images.shape[1:])
    expected = arrays["head.logits_eval"]
    logits = jax.jit(model.apply)(variables, images)
    assert np.abs(logits - expected).max() < 1e-4 * expected.std()


def test_an_imported_network_gives_the_released_logits(imported, released):
    assert_released_logits(imported, released)


@pytest.mark.long
def test_an_imported_imagenet_network_gives_the_released_logits(reference, tmp_path):
    checkpoint = reference / "imagenet_net_c4_l6_latest_cell.npz"
    assert (
        run(
            [
                "import",
                f"--checkpoint={checkpoint}",
                *IMAGENET_SIZES,
                f"--workdir={tmp_path / 'run'}",
            ]
        )
        == 0
    )
    assert_released_logits(tmp_path / "run", np.load(checkpoint))


def test_the_kind_of_file_makes_no_difference(files, imported, tmp_path, capfd):
    workdir = tmp_path / "run"
    capfd.readouterr()
    assert (
        run(
            [
                "import",
                f"--checkpoint={files / 'net.safetensors'}",
                *SIZES,
                f"--workdir={workdir}",
            ]
        )
        == 0
    )
    summary = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert summary == {"params": 26_380, "num_classes": 10, "workdir": str(workdir)}
    (_, one), (_, other) = variables_in(imported), variables_in(workdir)
    assert jax.tree.all(jax.tree.map(np.array_equal, one, other))


def test_what_is_imported_follows_the_release_and_is_evaluated_where_its_data_fits(
    imported, capfd
):
    config = settings.from_config(json.loads((imported / "config.json").read_text()))
    assert (
        config.conventions == "release"
        and config.network.float_head
        and not config.scheme.activation_scale
    )
    assert json.loads((imported / "run.json").read_text())["image_shape"] == [32, 32, 3]
    assert (
        run(["evaluate", f"--workdir={imported}", "--config.dataset.name=digits"]) == 2
    )
    assert "the network takes 3 channels, digits has 1" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        (
            {"cells.2._ops.1.op.0.weight": None},
            [],
            "the checkpoint lacks cells.2._ops.1.op.0.weight",
        ),
        (
            {"classifier.weight": None},
            [],
            "the checkpoint has no matrix classifier.weight",
        ),
        (
            {"classifier.weight": np.float32(1)},
            [],
            "the checkpoint has no matrix classifier.weight",
        ),
        (
            {"auxiliary.weight": np.zeros(3)},
            [],
            "the checkpoint has auxiliary.weight, which this network lacks",
        ),
        (
            {},
            ["--config.network.channels=8"],
            "has the shape (4,) (HWIO), the network needs (8,); check channels",
        ),
        ({}, ["--config.network.num_cells=6"], "; check "),
        ({}, ["--config.network.genotype=latest_cell"], "the checkpoint lacks cells."),
        ({}, ["--config.conventions=paper"], "the checkpoint lacks cells."),
        (
            {},
            ["--config.searcher.gamma=1"],
            "unknown setting --config.searcher; did you mean --config.teacher?",
        ),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_no_work_directory(
    state, tmp_path, capfd, changes, options, message
):
    changed = {
        name: value for name, value in {**state, **changes}.items() if value is not None
    }
    np.savez(tmp_path / "net.npz", **changed)
    assert imports(tmp_path / "net.npz", tmp_path / "run", *options) == 2
    out, err = capfd.readouterr()
    assert (
        out == "" and len(err.splitlines()) == 1 and err.startswith("bnas_jax: error: ")
    )
    assert message in err
    assert not (tmp_path / "run").exists()


def test_a_damaged_file_leaves_no_work_directory(files, tmp_path, capfd):
    (tmp_path / "net.npz").write_bytes((files / "net.npz").read_bytes()[:5000])
    assert imports(tmp_path / "net.npz", tmp_path / "run") == 2
    assert (
        "is not a complete .npz file" in capfd.readouterr().err
        and not (tmp_path / "run").exists()
    )


def test_a_work_directory_that_holds_a_run_is_left_alone(
    files, imported, tmp_path, capfd
):
    workdir = shutil.copytree(imported, tmp_path / "run")
    before = sorted(path.stat().st_mtime_ns for path in workdir.rglob("*"))
    assert imports(files / "net.npz", workdir) == 2
    assert "already holds a run; choose another --workdir" in capfd.readouterr().err
    assert sorted(path.stat().st_mtime_ns for path in workdir.rglob("*")) == before


def test_an_import_that_ended_before_its_checkpoint_can_be_done_again(
    files, imported, tmp_path
):
    workdir = shutil.copytree(imported, tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints" / "0")
    assert imports(files / "net.npz", workdir) == 0
    assert variables_in(workdir)


def test_an_import_that_was_killed_before_its_checksums_is_ended_by_the_next(
    files, state, imported, tmp_path, capfd
):
    workdir = shutil.copytree(imported, tmp_path / "run")
    summed = workdir / "checkpoints" / "0" / checksums.NAME
    whole = summed.read_text()
    summed.unlink()

    # Other weights do not replace them.
    name = "classifier.bias"
    np.savez(tmp_path / "other.npz", **{**state, name: state[name] + 1})
    assert imports(tmp_path / "other.npz", workdir) == 2
    assert "already holds a run; choose another --workdir" in capfd.readouterr().err

    summed.unlink(missing_ok=True)
    assert imports(files / "net.npz", workdir) == 0
    assert summed.read_text() == whole
