"""Weights of other systems' published PyTorch code: `load_published`.

They are found by the names of the code's state_dict. Each family of networks has a
module, whose `LOADERS` say which names it knows.
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

# By the first words of a network's name: "wrn22" also loads "wrn22_i4_xternalz".
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
    """A model and its variables from the arrays of a published network.

    name: of the network, such as "kuangliu_resnet18".
    arrays: its state_dict's names, with or without "state." before them, to NumPy
        arrays (kernels OIHW). Arrays that the network does not need are ignored.
    Raises `UserError` for a name that no family knows, and for an array that is missing
    or has another shape.

    Example: `model, variables = load_published("kuangliu_resnet18", arrays)`, then
    `model.apply(variables, images, train=False)` with images NHWC gives the logits.
    """
    # The loader of the family. Where one name begins with another, the longer one is
    # meant.
    fitting = [known for known in LOADERS if f"{name}_".startswith(f"{known}_")]
    if not fitting:
        raise UserError(
            f"no published network {name!r}; known: {', '.join(sorted(LOADERS))}"
        )
    loader = LOADERS[max(fitting, key=len)]

    # An array that does not fit says that the name is another network's.
    try:
        return loader(name, arrays)
    except UserError as error:
        raise UserError(
            f"these are not weights of {name!r}: {error}; write the name of their "
            "network"
        ) from error
