"""What a benchmark says where the chip's rates are known, and of how busy a GPU was."""

import jax
import jax.numpy as jnp
import pytest

from bnas_jax import settings
from bnas_jax.benchmarks import bound, step
from bnas_jax.benchmarks.busy import busy
from bnas_jax.plan.chips import CHIPS, chip_of
from bnas_jax.runtime import devices
from bnas_jax.runtime.compiling import Program
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


@pytest.mark.parametrize("kind", ["cpu", "TPU v3", "NVIDIA GH200 480GB", "NVIDIA L4"])
def test_rates_of_others_are_not_known(kind):
    assert chip_of(kind) is None


def test_the_bound_of_two_stages_is_their_sum():
    """Each a product of matrices of 64, which a v4 computes at 275 T operations a second and moves at 1,200 GB/s."""
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
    assert found["share_of_the_bound_percent"] == pytest.approx(2 * moving / 1e-8, rel=1e-3)


def test_a_cpu_has_no_bound():
    assert bound.chip_here() is None


def test_a_gpu_is_as_busy_as_its_driver_says(tmp_path, monkeypatch):
    """Until what ran is done, whatever else the driver prints."""
    driver = tmp_path / "nvidia-smi"
    said = tmp_path / "said"
    driver.write_text(
        f"#!/bin/sh\nprintf '50\\n[N/A]\\n100\\n'\necho \"$@\" > {said}\nexec sleep 100\n"
    )
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    with busy() as found:
        while not said.exists() or not said.read_text():
            pass

    assert found.percent == 75
    assert "utilization.gpu" in said.read_text()


def test_without_a_gpu_nothing_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with busy() as found:
        pass

    assert found.percent is None


def test_hours_are_those_of_all_steps():
    """The search's weights see half of CIFAR-10's 50,000 images in an epoch, a training all of them."""
    search = settings.from_config(search_configs.get_config("cifar10"))
    train = settings.from_config(train_configs.get_config("a"))
    digits = settings.from_config(train_configs.get_config("digits"))

    assert step._hours(search, 0.1) == pytest.approx(50 * (25_000 // 64) * 0.1 / 3600, rel=1e-3)
    assert step._hours(train, 0.1) == pytest.approx(600 * (50_000 // 256) * 0.1 / 3600, rel=1e-3)
    assert step._hours(digits, 0.1) is None
