"""BNAS in JAX: search, train and ship 1-bit convolutional networks."""

__version__ = "0.1.0"
