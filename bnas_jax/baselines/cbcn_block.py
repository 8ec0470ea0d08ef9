"""CBCN's block (arXiv 1910.10853), which has PCNN's order."""

from bnas_jax.baselines.pcnn_block import PcnnBlock


class CbcnBlock(PcnnBlock):
    """Two `PcnnUnit`s; the network's stem has a PReLU.

    The published ResNet18 for CIFAR has widths of 64, 64, 128 and 256: four
    orientations each of 16, 16, 32 and 64 features.
    """
