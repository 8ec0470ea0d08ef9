"""The tables and figures of the paper, made anew.

The trainings of a table are rows of a study; our numbers stand beside the printed ones.
"""

from bnas_jax.reproduce.reproduction import Reproduction

__all__ = ["Reproduction"]
