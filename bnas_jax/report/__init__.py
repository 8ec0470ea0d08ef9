"""Pictures of cells and curves, and the page about a run, made from genotypes and work
directories without jax.
"""
