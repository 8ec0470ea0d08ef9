"""Loads the CIFAR NiN of github.com/jiecaoyu/XNOR-Net-PyTorch.

As in that code, the sign of 0 is 0, and activations have no scale K.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from bnas_jax.baselines.nin import LEAST_SCALE, Nin
from bnas_jax.core.schemes import Xnor
from bnas_jax.interop.published.torch_arrays import (
    array_of,
    by_module,
    states,
    variables_of,
)
from bnas_jax.training.latents import project_params

# The index of each of our layers in their module `xnor`.
LAYERS = (3, 4, 6, 7, 8, 10, 11)
# Rules for `torch_arrays.by_module`: our modules -> theirs.
RULES = (
    (r"^stem$", "xnor/0"),
    (r"^stem_bn$", "xnor/1"),
    (r"^bn$", "xnor/12"),
    (r"^classifier$", "xnor/13"),
    # Here a layer, and not its convolution, has the bias, just before the activation.
    (r"^layer(\d)$", r"layer\1/conv"),
    *((f"^layer{index}/", f"xnor/{place}/") for index, place in enumerate(LAYERS)),
)


def load(name: str, arrays: Mapping[str, np.ndarray]) -> tuple[nn.Module, dict]:
    """(model, variables) of the network with dropout, see `load_published`.

    Latent weights are projected, and the scales of batch norms are clamped, because
    that code does so before each forward pass.
    """
    del name
    arrays = states(arrays)
    scheme = Xnor(activation_scale=False, sign_of_zero=0)

    # Read the sizes from the arrays. The stem, the first two layers and the classifier
    # have all widths.
    sizes = []
    for module in ("0", "3.conv", "4.conv", "13"):
        kernel = array_of(arrays, f"xnor.{module}.weight")
        sizes.append(len(kernel))
    wide, second, third, classes = sizes
    widths = (wide, second, third)
    model = Nin(
        widths=widths,
        dropout=0.5,
        num_classes=classes,
        scheme=scheme,
    )
    variables = variables_of(model, arrays, by_module(RULES), image_shape=(32, 32, 3))

    # Project latent weights, and clamp the scales of the layers' batch norms.
    params = project_params(variables["params"], scheme.latents)
    for index in range(len(LAYERS)):
        bn = params[f"layer{index}"]["bn"]
        bn["scale"] = jnp.maximum(bn["scale"], LEAST_SCALE)
    return model, {**variables, "params": params}


LOADERS = {"xnor_cifar_nin": load}
