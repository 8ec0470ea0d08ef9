"""The benchmarks run what they say they do. How fast, they tell; nothing here holds them to it."""

import json

import pytest

from bnas_jax.__main__ import run
from bnas_jax.benchmarks import measure, step

CELL = [["bin_conv_3x3", 0], ["none", 1]] * 4
TINY = ["--config.network.num_cells=1", "--config.network.channels=2", "--config.batch_size=8"]


def figures(capfd, *arguments: str) -> dict:
    code, (out, err) = run(["benchmark", *arguments]), capfd.readouterr()
    assert code == 0, err
    return json.loads(out.splitlines()[-1])


@pytest.fixture
def network(tmp_path) -> dict[str, list[str]]:
    """The arguments for a tiny network of each task."""
    cell = tmp_path / "cell.json"
    cell.write_text(json.dumps({"normal": CELL, "reduce": CELL}))
    own = {
        "train": ["--config=configs/train.py:a", f"--config.network.genotype={cell}"],
        "search": ["--config=configs/search.py:cifar10", "--config.network.layer_types=('none','bin_conv_3x3')"],
    }
    return {task: [*arguments, *TINY, "--image_size=8", "--repeats=2"] for task, arguments in own.items()}


@pytest.mark.parametrize("task", ["search", "train"])
def test_a_step_is_timed_with_what_it_needs(capfd, network, task):
    result = figures(capfd, task, *network[task])
    times = result["step_seconds"]
    assert 0 < times["lowest"] <= times["median"] <= times["highest"]
    assert result["images_per_second"] == pytest.approx(8 / times["median"], rel=1e-2)
    for what in ("tracing_seconds", "compiling_seconds"):  # one program is compiled while the next is traced
        assert 0 < result[what] < result["first_step_seconds"] + 0.2
    assert result["peak_memory_mib"] > 0 and result["state_leaves"] > 0 and result["gflops_per_second_of_a_matrix_product"] > 0
    assert {"jax", "python", "device", "cpu", "cores"} <= set(result["conditions"])


@pytest.mark.parametrize("task", ["search", "train"])
def test_a_save_is_timed_until_it_is_on_disk(capfd, network, task):
    result = figures(capfd, "save", *network[task])
    blocked, on_disk = result["blocked_seconds"], result["seconds_until_on_disk"]
    assert 0 < blocked["lowest"] <= blocked["median"] <= blocked["highest"]
    assert blocked["lowest"] < on_disk["lowest"] and blocked["highest"] < on_disk["highest"]
    assert result["bytes_on_disk"] > 0 and result["state_leaves"] > 0 and "orbax-checkpoint" in result["conditions"]


def test_noise_is_the_same_every_time_and_fits_its_classes():
    one, other = (step.noise(16, 8, 5) for _ in range(2))
    assert (one.train.images == other.train.images).all() and one.train.image_shape == (8, 8, 3)
    assert one.train.labels.max() < one.train.num_classes == 5


def test_what_is_compiled_side_by_side_counts_once():
    assert step._covered([(0, 2), (5, 6), (1, 3), (1.5, 2)]) == 4
    assert step._covered([]) == 0


def test_the_first_call_does_not_count():
    calls: list[int] = []
    assert len(measure.seconds(lambda: calls.append(0), 3)) == 3 and len(calls) == 4


@pytest.mark.parametrize("arguments", [["search", "--config=configs/train.py:a"], ["train"], ["save"], ["weather"], []])
def test_what_cannot_be_timed_is_answered_with_what_can(capfd, arguments):
    assert run(["benchmark", *arguments]) == 2
    assert len(capfd.readouterr().err.splitlines()) == 1
