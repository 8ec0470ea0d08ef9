"""Studies: variants of a run, each with several seeds, and the table of results."""

from bnas_jax.study.rows import Row, Study
from bnas_jax.study.runs import run_study

__all__ = ["Row", "Study", "run_study"]
