"""The search in Python that the README shows, as it stands there, for a few steps."""

import pathlib
import re

import jax
import numpy as np
import pytest

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
    [SMALL, pytest.param("num_cells=5, channels=4, num_classes=10", marks=pytest.mark.long)],
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
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((state.params, state.alphas)))
    latents = [
        leaf
        for path, leaf in jax.tree.leaves_with_path(state.params)
        if path[-1].key.startswith("latent")
    ]
    assert latents and max(np.abs(leaf).max() for leaf in latents) <= 1
    first = names["step"].init(seed=0, image_shape=(8, 8, 1))
    for name, value in state.alphas.items():
        assert value.shape == (14, len(names["supernet"].layer_types)) and not np.array_equal(
            value, first.alphas[name]
        )

    assert isinstance(names["genotype"], Genotype)
    assert "total" in capsys.readouterr().out
    with compile_times() as times:
        jax.jit(names["step"])(state, names["data"].search_batches(3))
    assert not times.compiling, "a step is compiled once, however often it is jitted"
