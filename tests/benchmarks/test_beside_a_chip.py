"""What a benchmark says where the chip's rates are known, and of how busy a GPU was."""

import sys
import time

import jax
import jax.numpy as jnp
import pytest

from bnas_jax import settings
from bnas_jax.benchmarks import bound, programs, rows, step
from bnas_jax.benchmarks.busy import busy
from bnas_jax.plan.chips import CHIPS, chip_of
from bnas_jax.runtime import devices
from bnas_jax.runtime.compiling import Program
from configs import baselines as baselines_configs
from configs import search as search_configs
from configs import train as train_configs


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
    ],
)
def test_a_chip_is_known_by_the_name_that_jax_gives_it(kind, name):
    assert chip_of(kind) is CHIPS[name]


@pytest.mark.parametrize(
    "kind",
    [
        "cpu",
        "TPU v3",
        "NVIDIA GH200 480GB",
        "NVIDIA L4",
        "NVIDIA H100 NVL",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
    ],
)
def test_rates_of_others_are_not_known(kind):
    assert chip_of(kind) is None


def test_the_bound_of_two_stages_is_their_sum():
    """Each a product of matrices of 64, which a v4 computes at 275 T operations a
    second and moves at 1,200 GB/s.
    """
    matrix = jnp.ones((64, 64))
    product = Program(lambda arguments: (jax.jit(lambda a, b: a @ b), ()))
    call = (product, (matrix, matrix))
    compiled = product.lower(matrix, matrix).compile()

    found = bound.figures(
        [call, call],
        [compiled, compiled],
        where=devices.ONE,
        chip=CHIPS["v4"],
        precision="float32",
        step_seconds=1e-6,
    )

    # Two matrices are read, one is written.
    moving = 3 * 4 * 64**2 / 1.2e12
    assert moving > 2 * 64**3 / 275e12
    assert found["step_seconds_at_least"] == pytest.approx(2 * moving, rel=1e-3)
    assert found["bound_by"] == "memory bandwidth"
    assert found["percent_of_the_step"] == pytest.approx(2 * moving / 1e-8, rel=1e-3)
    times = found["seconds_of_each_at_least"]
    assert times["operations"] == pytest.approx(2 * 2 * 64**3 / 275e12, rel=1e-3)
    assert times["links between chips"] == 0


def test_a_cpu_has_no_bound():
    assert bound.chip_here() is None


# Before a first second is over, what the driver says is of the time before.
DRIVER = """#!/bin/sh
echo "$@" > {asked}
echo 0
sleep 1.2
printf '50\\n[N/A]\\n100\\nNVML library version: 535.183\\n535.183\\n'
exec sleep 100
"""


def test_a_gpu_is_as_busy_as_its_driver_says(tmp_path, monkeypatch):
    """From the second second on, whatever else the driver prints."""
    driver = tmp_path / "nvidia-smi"
    driver.write_text(DRIVER.format(asked=tmp_path / "asked"))
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-5,7")

    with busy(gpus=2) as found:
        end = time.monotonic() + 30
        while found.percent != 75 and time.monotonic() < end:
            time.sleep(0.05)

    assert found.percent == 75
    asked = (tmp_path / "asked").read_text()
    assert "--id=3,GPU-5 " in asked and "utilization.gpu" in asked


def test_of_gpus_that_compute_nothing_nothing_is_asked(tmp_path, monkeypatch):
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\ntouch {tmp_path / 'asked'}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with busy(gpus=0) as found:
        time.sleep(0.2)

    assert found.percent is None
    assert not (tmp_path / "asked").exists()


def test_hours_are_those_of_all_steps():
    """The search's weights see half of CIFAR-10's 50,000 images in an epoch, a training
    all of them.
    """
    search = settings.from_config(search_configs.get_config("cifar10"))
    train = settings.from_config(train_configs.get_config("a"))
    digits = settings.from_config(train_configs.get_config("digits"))

    data = programs.noise(16, image_size=32, num_classes=10)
    small = programs.noise(16, image_size=8, num_classes=10)

    of_search = step._hours(search, data, 0.1)
    assert of_search == pytest.approx(50 * (25_000 // 64) * 0.1 / 3600, rel=1e-3)
    of_train = step._hours(train, data, 0.1)
    assert of_train == pytest.approx(600 * (50_000 // 256) * 0.1 / 3600, rel=1e-3)
    # Of other images, and of a data set whose size is not known by its name.
    assert step._hours(train, small, 0.1) is None
    assert step._hours(digits, data, 0.1) is None


class Steps:
    """In place of a `Stepper`: notes how many steps it was asked for."""

    def __init__(self):
        self.compiled, self.asked = [], []

    def steps(self, number):
        self.asked.append(number)

    def calls(self):
        return []


def test_on_accelerators_steps_are_measured_in_a_row_too(monkeypatch):
    """As a run makes them: it waits for none of them."""
    steps = Steps()
    assert step._in_a_row(steps, 7) is None
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert step._in_a_row(steps, 7) > 0
    assert steps.asked == [7]


def test_a_bound_that_cannot_be_read_loses_no_measurement(monkeypatch, capsys):
    def refuse(*_, **__):
        raise IndexError("tuple index out of range")

    monkeypatch.setattr(bound, "chip_here", lambda: CHIPS["h100"])
    monkeypatch.setattr(bound, "figures", refuse)
    found = step._bound(Steps(), devices.ONE, precision="float32", step_seconds=1)

    assert found == {}
    assert capsys.readouterr().err == (
        "the least time of a step is not known (tuple index out of range)\n"
    )


def test_operations_are_counted_where_jax_counts_them(monkeypatch):
    assert step._counts_operations()
    # As on GPUs and TPUs.
    monkeypatch.setattr(jax.stages.Lowered, "cost_analysis", lambda _: None)
    assert not step._counts_operations()


@pytest.mark.long
@pytest.mark.parametrize("parallel", ["none", "pmap"])
def test_a_benchmark_on_a_known_chip_has_its_bound_in_the_table(parallel, monkeypatch):
    """On a CPU taken for a v4. Operations are not known of pmap."""
    monkeypatch.setattr(bound, "chip_here", lambda: CHIPS["v4"])
    config = baselines_configs.get_config("digits_small_cnn")
    config.network.widths, config.network.dense = (4, 8), (8,)
    config.batch_size, config.parallel = 8, parallel
    result = step.benchmark(
        settings.from_config(config), image_size=8, num_classes=5, repeats=1
    )

    found = result["bound"]
    assert found["chip"] == "v4"
    assert ("operations" in found["seconds_of_each_at_least"]) == (parallel == "none")
    assert (
        found["step_seconds_at_least"]
        == max(found["seconds_of_each_at_least"].values())
        > 0
    )
    share = 100 * found["step_seconds_at_least"] / result["step_seconds"]["median"]
    assert found["percent_of_the_step"] == pytest.approx(share, rel=1e-2)
    row = rows.markdown({"tiny|4": result}).splitlines()[-1]
    assert row.startswith(r"| tiny\|4 | ")
    assert f"{found['percent_of_the_step']:.3g} %), memory bandwidth |" in row


def test_a_file_that_is_no_benchmark_is_left_out_of_the_table(
    tmp_path, capsys, monkeypatch
):
    (tmp_path / "half.json").write_text('{"step_seconds": {"med')
    (tmp_path / "other.json").write_text('{"loss": 1}')
    monkeypatch.setattr(sys, "argv", ["rows", str(tmp_path)])
    rows.main()

    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 2
    assert [line.split()[1] for line in said.err.splitlines()] == [
        str(tmp_path / "half.json"),
        str(tmp_path / "other.json"),
    ]
