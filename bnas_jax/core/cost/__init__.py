"""What a network costs, computed from the shapes of its modules (appendix, section D).

Nothing here is measured.

    FLOPs  = float MACs + binary MACs / 64      of the convolutions and linear layers
    memory = 32 bits x float parameters + 1 bit x binary parameters

These are the counts of Bi-Real Net (arXiv 1808.00278), which the paper follows. A MAC
(multiply-accumulate) is binary, 64 of them to one xnor and one popcount, only when
weight and activation are both one bit; if one of them is float, so is the MAC. MACs on
the zero padding count like any other.

Not counted in the FLOPs: K and the weight scales of Eq. (1), batch norm, pooling,
activations and additions. Batch norm's parameters are its scale and shift, as the
running statistics fold into them. The weight scales are not counted in the memory,
either: they fold into a batch norm that reads the convolution alone. Where outputs are
added first, as in a cell's nodes, they would be 32 bits for each output channel.
"""

from bnas_jax.core.cost.budget import fit_budget
from bnas_jax.core.cost.counts import Cost, Counts, Ratios, Row, ratios
from bnas_jax.core.cost.walk import cost, float_twin

__all__ = [
    "Cost",
    "Counts",
    "Ratios",
    "Row",
    "cost",
    "fit_budget",
    "float_twin",
    "ratios",
]
