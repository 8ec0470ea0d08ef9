"""The counts of operations and parameters, of a module and of a network."""

import dataclasses
from collections.abc import Iterable

BINARY_OPS_PER_FLOP = 64  # binary MACs of one xnor and one popcount of 64-bit words
FLOAT_BITS = 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counts:
    """MACs for one image, and parameters: binary ones of 1 bit, float ones of 32 bits.

    float_params: includes those of batch norm and biases.
    bn_params: how many of the float parameters belong to batch norm.
    """

    binary_macs: int = 0
    float_macs: int = 0
    binary_params: int = 0
    float_params: int = 0
    bn_params: int = 0

    @property
    def flops(self) -> float:
        """float MACs + binary MACs / 64."""
        return self.float_macs + self.binary_macs / BINARY_OPS_PER_FLOP

    @property
    def params(self) -> int:
        """The number of all parameters, binary and float."""
        return self.float_params + self.binary_params

    @property
    def memory_bits(self) -> int:
        """Bits of all parameters, including those of batch norm."""
        return FLOAT_BITS * self.float_params + self.binary_params

    @property
    def memory_bits_without_bn(self) -> int:
        """Bits of all parameters except those of batch norm."""
        return self.memory_bits - FLOAT_BITS * self.bn_params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row(Counts):
    """The cost of one module.

    name: the module's path, such as "cell0/layer3/conv".
    kind: the name of its class.
    out_shape: the shape of its output, (H, W, C) or (C,).
    """

    name: str
    kind: str
    out_shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of a network.

    rows: one for each module with weights, in the order of the forward pass.
    """

    rows: tuple[Row, ...]

    @property
    def total(self) -> Counts:
        """The sums over all rows."""
        return add(self.rows)

    def table(self) -> str:
        """A plain-text table: a line for each row, the totals, and their formulas."""
        # Imported here, as `table` imports this module.
        from bnas_jax.core.cost.table import table

        return table(self)


def add(counts: Iterable[Counts]) -> Counts:
    """The sums of all counts."""
    counts = tuple(counts)
    sums = {}
    for field in dataclasses.fields(Counts):
        sums[field.name] = sum(getattr(one, field.name) for one in counts)
    return Counts(**sums)


@dataclasses.dataclass(frozen=True)
class Ratios:
    """The cost of a reference network divided by that of another (Table 9, appendix D).

    speedup: the ratio of FLOPs.
    memory_saving: the ratio of the bits of all parameters.
    memory_saving_without_bn: the ratio of the bits without batch norm.
    """

    speedup: float
    memory_saving: float
    memory_saving_without_bn: float


def ratios(ours: Cost, reference: Cost) -> Ratios:
    """The speed-up and the memory saving of a network, compared with a reference.

    Both are counted, not measured.

    >>> from bnas_jax.core.cost import cost, float_twin, ratios
    >>> genotype = bnas.load_genotype("latest_cell")
    >>> network = bnas.Network(genotype, num_cells=5, channels=8, num_classes=10)
    >>> counted = cost(network, image_shape=(8, 8, 1))
    >>> of_twin = cost(float_twin(network), image_shape=(8, 8, 1))
    >>> round(ratios(counted, of_twin).speedup, 1)
    41.1
    """
    binary, other = ours.total, reference.total
    without_bn = other.memory_bits_without_bn / binary.memory_bits_without_bn
    return Ratios(
        speedup=other.flops / binary.flops,
        memory_saving=other.memory_bits / binary.memory_bits,
        memory_saving_without_bn=without_bn,
    )
