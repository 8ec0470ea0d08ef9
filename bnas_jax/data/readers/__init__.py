"""Data sets on disk: folders of images and TFDS directories, their encoded images, and
how these become pixels.
"""
