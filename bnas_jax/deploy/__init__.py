"""Packed networks: one bit for each binary weight, in one file, run from it."""
