"""Pictures of cells and curves, and the page about a run.

They are made from genotypes and work directories, without jax.
"""
