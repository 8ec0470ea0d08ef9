"""Data sets on disk, and how their encoded images become pixels.

A data set is a folder of images, a TFDS directory, or a file of arrays.
"""
