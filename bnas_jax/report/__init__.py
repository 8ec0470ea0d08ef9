"""Pictures of cells, charts, and the page of a run.

This package only reads genotypes and work directories, and does not load JAX.
"""
