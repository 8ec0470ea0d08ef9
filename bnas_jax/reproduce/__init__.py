"""The tables and figures of the paper, made anew: its trainings as rows of a study, our
figures beside the printed ones.
"""

from bnas_jax.reproduce.reproduction import Reproduction

__all__ = ["Reproduction"]
