"""The basic blocks of residual networks: `BLOCKS`, the one table of them.

A new block is a new file, a subclass of `block.Block`, and a new entry.
"""

from bnas_jax.baselines.bireal_block import BiRealBlock
from bnas_jax.baselines.block import Block
from bnas_jax.baselines.pcnn_block import PcnnBlock
from bnas_jax.baselines.reactnet_block import ReActNetBlock
from bnas_jax.baselines.xnor_block import XnorBlock

# The keys are the values of `config.network.block`. The default is `Scheme.block`, the
# usual block of the scheme.
BLOCKS: dict[str, type[Block]] = {
    "xnor": XnorBlock,
    "bireal": BiRealBlock,
    "reactnet": ReActNetBlock,
    "pcnn": PcnnBlock,
    "cbcn": PcnnBlock,  # the order of both is the same
}
