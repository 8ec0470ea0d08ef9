"""The table of costs as plain text."""

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


def table(cost: Cost) -> str:
    """One line a row, with the totals and the formulas they come from."""
    total = cost.total
    body = [
        (row.name, row.kind, "x".join(map(str, row.out_shape)), *_numbers(row)) for row in cost.rows
    ]
    lines = _aligned([HEAD, *body, ("total", "", "", *_numbers(total))])
    return "\n".join([*lines, "", *_formulas(total)])


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


def _aligned(lines: list[tuple[str, ...]]) -> list[str]:
    """Columns of one width each: names to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligns = "<<<" + ">" * (len(widths) - 3)
    fields = [f"{{:{align}{width}}}" for align, width in zip(aligns, widths, strict=True)]
    return ["  ".join(fields).format(*line).rstrip() for line in lines]


def _formulas(total: Counts) -> list[str]:
    return [
        f"FLOPs = float MACs + binary MACs / {BINARY_OPS_PER_FLOP}"
        f" = {total.float_macs:,} + {total.binary_macs:,} / {BINARY_OPS_PER_FLOP} = {total.flops:,.0f}",
        f"memory = {FLOAT_BITS} bits x float params + 1 bit x binary params"
        f" = {FLOAT_BITS} x {total.float_params:,} + {total.binary_params:,} = {total.memory_bits:,} bits"
        f" ({total.memory_bits_without_bn:,} without batch norm)",
        f"params = {total.params:,}",
        "Counted from shapes, not measured. A MAC is binary when weight and activation both are. Not counted: K and scale",
        "factors, batch norm, pooling, activations and additions. Zeroise layers cost nothing and have no line.",
    ]
