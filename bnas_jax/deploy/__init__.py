"""Packed networks: one bit for each binary weight, written to one file and run from it."""
