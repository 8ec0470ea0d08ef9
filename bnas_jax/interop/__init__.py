"""Loads PyTorch weights: the authors', and those of other published networks."""

from bnas_jax.interop.published import load_published
from bnas_jax.interop.reference import load_reference

__all__ = ["load_published", "load_reference"]
