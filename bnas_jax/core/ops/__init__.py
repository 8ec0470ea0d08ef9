"""Operations on arrays, and the forms of them that a compiler makes fast.

Images are NHWC, kernels HWIO.
"""
