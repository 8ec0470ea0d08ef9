"""Reads the work directory of a run as plain values, without JAX."""

from bnas_jax.workdir.directory import FORMAT, RunDirectory

__all__ = ["FORMAT", "RunDirectory"]
