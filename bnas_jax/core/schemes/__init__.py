"""Binarization schemes, one file each, and the table that `config.scheme.name` chooses from."""

from bnas_jax.core.schemes.abc_net import AbcNet
from bnas_jax.core.schemes.float import Float
from bnas_jax.core.schemes.scheme import LatentRule, Scheme
from bnas_jax.core.schemes.xnor import Xnor

SCHEMES: dict[str, type[Scheme]] = {
    "xnor": Xnor,
    "abc_net": AbcNet,
    "float": Float,
}

__all__ = ["SCHEMES", "AbcNet", "Float", "LatentRule", "Scheme", "Xnor"]
