"""Binarization schemes, one file each, and the table of them, `SCHEMES`.

`config.scheme.name` chooses from the table.
"""

from bnas_jax.core.schemes.abc_net import AbcNet
from bnas_jax.core.schemes.binarynet import BinaryNet
from bnas_jax.core.schemes.bireal import BiReal
from bnas_jax.core.schemes.cbcn import Cbcn
from bnas_jax.core.schemes.float import Float
from bnas_jax.core.schemes.latent_rule import LatentRule
from bnas_jax.core.schemes.pcnn import Pcnn
from bnas_jax.core.schemes.reactnet import ReActNet
from bnas_jax.core.schemes.scheme import Scheme
from bnas_jax.core.schemes.xnor import Xnor
from bnas_jax.core.schemes.xnor_pp import XnorPlusPlus

SCHEMES: dict[str, type[Scheme]] = {
    "xnor": Xnor,
    "binarynet": BinaryNet,
    "bireal": BiReal,
    "xnor_pp": XnorPlusPlus,
    "abc_net": AbcNet,
    "pcnn": Pcnn,
    "cbcn": Cbcn,
    "reactnet": ReActNet,
    "float": Float,
}

__all__ = [
    "SCHEMES",
    "AbcNet",
    "BiReal",
    "BinaryNet",
    "Cbcn",
    "Float",
    "LatentRule",
    "Pcnn",
    "ReActNet",
    "Scheme",
    "Xnor",
    "XnorPlusPlus",
]
