"""Pictures of what a search found. This room reads genotypes and plain values; it needs no jax."""
