"""Checkpoints of the authors' code into a work directory, by the command line."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from bnas_jax import settings
from bnas_jax.__main__ import run
from bnas_jax.training.checkpoints import Checkpoints
from bnas_jax.training.evaluate import build_network
from bnas_jax.training.state import initial_variables
from bnas_jax.training.workdir import WorkDir

SIZES = ["--preset=mini", "--config.network.channels=4", "--config.network.num_cells=5"]


@pytest.fixture
def arrays(reference):
    with np.load(reference / "cifar_net_c4_l5_latest_cell_zeroise.npz") as stored:
        return {name.removeprefix("state."): stored[name] for name in stored.files if name.startswith("state.")}


def logits(workdir: WorkDir, images) -> np.ndarray:
    """What the imported network says to NHWC images."""
    model = build_network(settings.from_config(workdir.config()), workdir.facts()["num_classes"])
    shapes = jax.eval_shape(lambda: initial_variables(model, images.shape[1:], 0))
    checkpoints = Checkpoints(workdir.checkpoints)
    step, variables = checkpoints.restore_variables(shapes, "last")
    checkpoints.close()
    assert step == 0
    return np.asarray(model.apply(variables, images, train=False))


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_an_imported_network_is_the_authors_network(suffix, arrays, reference, tmp_path, capsys):
    file = tmp_path / f"weights{suffix}"
    np.savez(file, **arrays) if suffix == ".npz" else save_file(arrays, file)
    assert run(["import", f"--checkpoint={file}", *SIZES, f"--workdir={tmp_path}/w"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["params"] == 26_380
    with np.load(reference / "cifar_net_c4_l5_latest_cell_zeroise.npz") as stored:
        ours = logits(WorkDir(tmp_path / "w"), jnp.asarray(stored["x"].transpose(0, 2, 3, 1)))
        assert np.abs(ours - stored["clean.logits_eval"]).max() < 1e-4 * stored["clean.logits_eval"].std()


def refused(capsys, tmp_path, file) -> str:
    assert run(["import", f"--checkpoint={file}", *SIZES, f"--workdir={tmp_path}/w"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("bnas_jax: error: ") and error.count("\n") == 1
    assert not (tmp_path / "w").exists()
    return error


def test_a_checkpoint_that_does_not_fit_is_refused(arrays, tmp_path, capsys):
    file = tmp_path / "weights.npz"
    np.savez(file, **{name: value for name, value in arrays.items() if name != "stem.op.0.weight"})
    assert "lacks stem.op.0.weight" in refused(capsys, tmp_path, file)
    np.savez(file, **arrays | {"stem.op.0.weight": np.zeros((9, 3, 3, 3), np.float32)})
    assert "stem.op.0.weight has the shape" in refused(capsys, tmp_path, file)
    np.savez(file, **arrays, more=np.zeros(3))
    assert "has more, which this network lacks" in refused(capsys, tmp_path, file)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_damaged_file_is_refused(suffix, arrays, tmp_path, capsys):
    file = tmp_path / f"weights{suffix}"
    np.savez(file, **arrays) if suffix == ".npz" else save_file(arrays, file)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert "is no whole" in refused(capsys, tmp_path, file)
    assert "there is no checkpoint" in refused(capsys, tmp_path, tmp_path / f"other{suffix}")


def test_a_torch_file_without_torch_says_what_to_do(tmp_path):
    file = tmp_path / "weights.pt"
    file.write_bytes(b"not a checkpoint")
    # A process in which torch cannot be imported, whether or not it is installed.
    program = "import sys; sys.modules['torch'] = None; from bnas_jax.interop import checkpoint_files as c; c.read(sys.argv[1])"
    root = __file__.rsplit("/", 2)[0]
    done = subprocess.run([sys.executable, "-c", program, str(file)], cwd=root, capture_output=True, text=True)
    assert "reading weights.pt needs PyTorch: pip install torch" in done.stderr
