"""Operations on arrays, each also in the form that XLA compiles to fast code.

Images are NHWC, kernels HWIO.
"""
