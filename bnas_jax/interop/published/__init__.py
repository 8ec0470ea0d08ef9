"""`load_published`: loads weights of other authors' published PyTorch code.

Arrays are found by their names in the state_dict of that code. Each family of networks
has a module, whose table `LOADERS` has the names of its networks.
"""

from collections.abc import Callable, Mapping

import flax.linen as nn
import numpy as np

from bnas_jax.core.errors import UserError
from bnas_jax.interop.published import (
    bireal,
    cells,
    kuangliu,
    nin,
    supernets,
    wide_resnet,
)

# (name, arrays) -> (model, variables).
Loader = Callable[[str, Mapping[str, np.ndarray]], tuple[nn.Module, dict]]

# The beginning of a network's name -> its loader: "wrn22" also loads
# "wrn22_i4_xternalz".
LOADERS: dict[str, Loader] = {
    **kuangliu.LOADERS,
    **wide_resnet.LOADERS,
    **nin.LOADERS,
    **bireal.LOADERS,
    **dict.fromkeys(("darts_net", "snas_net", "gdas_f1_net"), cells.load),
    **supernets.LOADERS,
}


def load_published(
    name: str, arrays: Mapping[str, np.ndarray]
) -> tuple[nn.Module, dict]:
    """(model, variables) from the arrays of a published network.

    name: the name of the network, such as "kuangliu_resnet18".
    arrays: name in the state_dict, with or without the prefix "state." -> NumPy array
        (kernels OIHW). Arrays that the network does not need are ignored.

    Raises `UserError` for an unknown name, and for an array that is missing or has
    another shape.

    Example: `model, variables = load_published("kuangliu_resnet18", arrays)`, then
    `model.apply(variables, images, train=False)` with images NHWC gives the logits.
    """
    # Find the loader of the family. If several names fit, the longest one counts.
    fitting = [known for known in LOADERS if f"{name}_".startswith(f"{known}_")]
    if not fitting:
        raise UserError(
            f"no published network {name!r}; known: {', '.join(sorted(LOADERS))}"
        )
    loader = LOADERS[max(fitting, key=len)]

    # If an array does not fit, the arrays belong to another network.
    try:
        return loader(name, arrays)
    except UserError as error:
        raise UserError(
            f"these are not weights of {name!r}: {error}; write the name of their "
            "network"
        ) from error
