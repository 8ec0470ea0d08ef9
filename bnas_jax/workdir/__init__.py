"""A run's directory as plain values. Reading it needs no jax."""

from bnas_jax.workdir.directory import FORMAT, RunDirectory

__all__ = ["FORMAT", "RunDirectory"]
