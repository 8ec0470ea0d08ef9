"""The table of costs as plain text."""

from collections.abc import Sequence

from bnas_jax.core.cost.counts import BINARY_OPS_PER_FLOP, FLOAT_BITS, Cost, Counts

HEAD = (
    "layer",
    "kind",
    "output",
    "binary MACs",
    "float MACs",
    "FLOPs",
    "binary params",
    "float params",
    "of them BN",
)
NAMES = 3  # the first columns are names, the others numbers


def table(cost: Cost) -> str:
    """The table as text: a line for each row, the totals, and their formulas."""
    # The heading, a line for each row, and the totals.
    lines: list[tuple[str, ...]] = [HEAD]
    for row in cost.rows:
        shape = "x".join(map(str, row.out_shape))
        lines.append((row.name, row.kind, shape, *_numbers(row)))
    total = cost.total
    lines.append(("total", "", "", *_numbers(total)))

    # An empty line before the formulas.
    return "\n".join([*_aligned(lines), "", *_formulas(total)])


def _numbers(counts: Counts) -> tuple[str, ...]:
    numbers = (
        counts.binary_macs,
        counts.float_macs,
        counts.flops,
        counts.binary_params,
        counts.float_params,
        counts.bn_params,
    )
    return tuple(f"{number:,.0f}" for number in numbers)


def _aligned(lines: Sequence[tuple[str, ...]]) -> list[str]:
    """The lines in columns of one width: names to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = []
    for line in lines:
        fields = [text.rjust(width) for text, width in zip(line, widths, strict=True)]
        for place in range(NAMES):
            fields[place] = line[place].ljust(widths[place])
        aligned.append("  ".join(fields).rstrip())
    return aligned


def _formulas(total: Counts) -> list[str]:
    return [
        f"FLOPs = float MACs + binary MACs / {BINARY_OPS_PER_FLOP}"
        f" = {total.float_macs:,} + {total.binary_macs:,} / {BINARY_OPS_PER_FLOP}"
        f" = {total.flops:,.0f}",
        f"memory = {FLOAT_BITS} bits x float params + 1 bit x binary params"
        f" = {FLOAT_BITS} x {total.float_params:,} + {total.binary_params:,}"
        f" = {total.memory_bits:,} bits"
        f" ({total.memory_bits_without_bn:,} without batch norm)",
        f"params = {total.params:,}",
        "Counted from shapes, not measured. A MAC is binary when weight and activation "
        "both are. Not counted: K and scale",
        "factors, batch norm, pooling, activations and additions. Zeroise layers cost "
        "nothing and have no line.",
    ]
