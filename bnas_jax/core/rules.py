"""What every layer is told: how it binarizes and in which arithmetic it computes."""

import dataclasses
from typing import Any

import jax.numpy as jnp

REDUCTION_SKIPS = ("float", "binary_weight", "binary", "binary_bn")


@dataclasses.dataclass(frozen=True)
class Rules:
    """The paper's conventions where its code differs from its text; the defaults are the paper's (`PAPER`)."""

    # K of Eq. (1): scale the outputs by the mean magnitude of the inputs under the kernel. No gradient flows through it.
    activation_scale: bool = True
    # What the sign of exactly 0 is: 1, so that one bit holds it, or 0 as in PyTorch.
    sign_of_zero: int = 1
    # Gradient rule of the weights' sign, a key of `binarize.WEIGHT_GRADIENTS`.
    weight_gradient: str = "bnas"
    # The convolution of a skip across a reduction cell, one of `REDUCTION_SKIPS`.
    reduction_skip: str = "binary_bn"
    # ReLU after each binary convolution (in the BNAS and the jiecaoyu code, not in the original XNOR-Net).
    relu: bool = True
    # Leave the last few convolutions float, as an index error of the released code does.
    float_head: bool = False
    # Centre kernels of one input channel, too, as XNOR-Net's rule says: nothing is left of them, and they never learn.
    depthwise_center: bool = False
    # Binarize the preprocessing convolutions in the search, too.
    binary_search_preprocess: bool = False
    # Arithmetic of parameters, batch statistics and losses: float32, or float64 for exact checks.
    dtype: Any = jnp.float32
    # Arithmetic of the products of a convolution: None is `dtype`; bfloat16 accumulates in float32.
    conv_dtype: Any = None
    # Mapped axis over which batch statistics are averaged; None keeps them per device.
    bn_axis: str | None = None
    # How many examples, that follow each other in the batch over all devices, are normalised together; None is all of them.
    bn_examples: int | None = None
    # Mapped axis over which the batch is divided; what is drawn for an example is then the same on any number of devices.
    batch_axis: str | None = None


# What the text says; what the authors' code means to do; and what that code does, with its index error.
PAPER = Rules()
MEANT = Rules(activation_scale=False, sign_of_zero=0, reduction_skip="float")
RELEASE = dataclasses.replace(MEANT, float_head=True)
