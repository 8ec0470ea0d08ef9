"""The cost of a network, counted from the shapes of its modules (appendix, section D).

Nothing here is measured.

    FLOPs  = float MACs + binary MACs / 64      of the convolutions and linear layers
    memory = 32 bits x float parameters + 1 bit x binary parameters

These are the counts of Bi-Real Net (arXiv 1808.00278), which the paper follows. A MAC
(multiply-accumulate) is binary only if both the weight and the activation have one bit;
one xnor and one popcount do 64 of them. MACs on the zero padding count like any other.

Not counted in the FLOPs: K and the weight scales of Eq. (1), batch norm, pooling,
activations and additions. The parameters of a batch norm are its scale and shift, since
the running statistics can be folded into them. The weight scales are not counted: they
can be folded into a batch norm that reads only this convolution. Where outputs are
added first, as in the nodes of a cell, they would be 32 bits per output channel.
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
