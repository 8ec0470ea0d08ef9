"""Where the paper's text and the authors' code differ in a network.

There are three conventions: `paper` is the text, `release` is the authors' code as it
runs, and `meant` is that code without its index errors (docs/conventions.md).
"""

import dataclasses
from typing import Any

from bnas_jax.core.checks import choice


@dataclasses.dataclass(frozen=True)
class Conventions:
    """The settings in which the conventions differ.

    scheme: fields of `schemes.Xnor`.
    network: fields of `Network` and `Supernet`.
    """

    scheme: dict[str, Any]
    network: dict[str, Any]


CONVENTIONS = {
    "paper": Conventions(
        scheme={"activation_scale": True, "sign_of_zero": 1},
        network={"reduction_skip": "binary_bn", "float_head": False},
    ),
    # Without K, with PyTorch's sign, float skips, and the convolutions that an index
    # error leaves float.
    "release": Conventions(
        scheme={"activation_scale": False, "sign_of_zero": 0},
        network={"reduction_skip": "float", "float_head": True},
    ),
    "meant": Conventions(
        scheme={"activation_scale": False, "sign_of_zero": 0},
        network={"reduction_skip": "float", "float_head": False},
    ),
}


def conventions(name: str) -> Conventions:
    """The conventions of that name; raises `UserError` for another name."""
    choice("conventions", name, choices=CONVENTIONS)
    return CONVENTIONS[name]
