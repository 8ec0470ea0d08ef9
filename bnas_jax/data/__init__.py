"""Data sets, and batches of them as functions of the global step; knows no model."""
