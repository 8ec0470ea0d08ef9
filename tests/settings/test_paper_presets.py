"""configs/paper.py: what it sets, and the warning about kernels that stay zero."""

import jax
import pytest

from bnas_jax import settings
from bnas_jax.core.schemes import Xnor
from bnas_jax.training.build import network
from bnas_jax.training.latents import kernels_always_zero
from bnas_jax.training.state import initial_variables
from configs import paper


@pytest.mark.parametrize("variant", paper.VARIANTS)
def test_every_preset_centres_depthwise_kernels(variant):
    run = settings.from_config(paper.get_config(variant))
    assert run.scheme.depthwise_center
    assert run.num_epochs == (600 if variant.startswith("figure2") else 50)


@pytest.mark.parametrize(
    ("layer_type", "zero"),
    [("sep_conv_3x3", 6), ("mobinet_3x3", 3), ("bin_conv_3x3", 0)],
)
def test_the_kernels_that_centring_makes_zero_are_found(layer_type, zero):
    config = paper.get_config("table1_sep_conv_3x3")
    config.network.layer_type = layer_type
    run = settings.from_config(config)
    model = network(run, num_classes=10)
    variables = jax.eval_shape(lambda: initial_variables(model, (32, 32, 3), 0))
    found = kernels_always_zero(variables["params"], run.scheme)
    assert len(found) == zero
    assert all("latent" in path for path in found)
    assert kernels_always_zero(variables["params"], Xnor()) == []
