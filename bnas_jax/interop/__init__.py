"""The authors' PyTorch checkpoints."""

from bnas_jax.interop.reference import load_reference

__all__ = ["load_reference"]
