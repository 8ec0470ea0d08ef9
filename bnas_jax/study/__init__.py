"""Studies: runs that differ in one thing, each over several seeds, and their table."""

from bnas_jax.study.rows import Row, Study
from bnas_jax.study.runs import run_study

__all__ = ["Row", "Study", "run_study"]
