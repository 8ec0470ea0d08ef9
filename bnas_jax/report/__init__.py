"""Pictures of what a search found. It reads genotypes and plain values; it needs no jax."""
