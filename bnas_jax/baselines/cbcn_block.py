"""CBCN's block."""

from bnas_jax.baselines.pcnn_block import PcnnBlock


class CbcnBlock(PcnnBlock):
    """CBCN's (arXiv 1910.10853): the same order as PCNN's, see there. How sure: agrees with the published training code.

    The published CIFAR ResNet18 has widths (64, 64, 128, 256), each four orientations of 16 to 64 features.
    """
