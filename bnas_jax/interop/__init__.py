"""The authors' PyTorch checkpoints, and those of the systems that the paper compares
with.
"""

from bnas_jax.interop.published import load_published
from bnas_jax.interop.reference import load_reference

__all__ = ["load_published", "load_reference"]
