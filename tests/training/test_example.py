"""What is shown in Python, as it stands there: the README's search, for a few steps,
and a step over several devices.
"""

import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from documents import ROOT, blocks

from bnas_jax import Genotype
from bnas_jax.benchmarks.compile_times import compile_times

README = pathlib.Path(__file__).parents[2] / "README.md"


def example() -> str:
    """The block of Python with a `SearchStep`."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    (found,) = [block for block in blocks if "SearchStep(" in block]
    return found


# One cell of two layer types compiles in a small part of the time.
SMALL = 'num_cells=1, channels=4, num_classes=10, layer_types=("none", "bin_conv_3x3")'


@pytest.mark.usefixtures("quick_compilation")
@pytest.mark.parametrize(
    "supernet",
    [
        SMALL,
        pytest.param("num_cells=5, channels=4, num_classes=10", marks=pytest.mark.long),
    ],
)
def test_the_readmes_search_runs(capsys, supernet):
    text = example()
    assert (
        text.count("range(100)") == 1
        and text.count("Supernet(num_cells=5, channels=4, num_classes=10)") == 1
    )
    text = text.replace("range(100)", "range(3)").replace(
        "num_cells=5, channels=4, num_classes=10", supernet
    )
    names: dict = {}
    exec(compile(text, "README.md", "exec"), names)

    state = names["state"]
    assert int(state.step) == 3 and float(state.sums.examples) == 3 * 64
    assert all(
        np.isfinite(leaf).all()
        for leaf in jax.tree.leaves((state.params, state.alphas))
    )
    latents = [
        leaf
        for path, leaf in jax.tree.leaves_with_path(state.params)
        if path[-1].key.startswith("latent")
    ]
    assert latents and max(np.abs(leaf).max() for leaf in latents) <= 1
    first = names["step"].init(seed=0, image_shape=(8, 8, 1))
    for name, value in state.alphas.items():
        assert value.shape == (
            14,
            len(names["supernet"].layer_types),
        ) and not np.array_equal(value, first.alphas[name])

    assert isinstance(names["genotype"], Genotype)
    assert "total" in capsys.readouterr().out
    with compile_times() as times:
        jax.jit(names["step"])(state, names["data"].search_batches(3))
    assert not times.compiling, "a step is compiled once, however often it is jitted"


# Behind the step that docs/devices.md shows.
COMPARED = """
import numpy as np
for leaf in jax.tree.leaves(state):
    assert leaf.sharding.is_equivalent_to(everywhere, leaf.ndim)
start = step.init(seed=0, image_shape=data.image_shape)
alone = jax.jit(step)(start, data.train_batch(0))
close = lambda one, two: np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)
jax.tree.map(close, state.params, alone.params)
print(jax.device_count())
"""


@pytest.mark.long
def test_a_step_divided_over_a_mesh_is_that_of_one_device():
    (block,) = [
        block
        for block in blocks(ROOT / "docs" / "devices.md")
        if "make_mesh" in block.text
    ]
    flags = "--xla_force_host_platform_device_count=2"
    done = subprocess.run(
        [sys.executable, "-c", block.text + COMPARED],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": flags, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr
