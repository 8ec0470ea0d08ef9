"""Reproduces the tables and figures of the paper.

Each training of a table is a row of a study. The table has our numbers next to the
printed ones.
"""

from bnas_jax.reproduce.reproduction import Reproduction

__all__ = ["Reproduction"]
