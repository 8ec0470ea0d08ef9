"""Data sets on disk: their encoded images, and how these become pixels.

A data set is a folder of images or a TFDS directory.
"""
