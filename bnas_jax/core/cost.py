"""What the final network costs, counted from shapes alone; nothing here is measured (section D of the appendix).

    FLOPs  = float MACs + binary MACs / 64      of the convolutions and the classifier
    memory = 32 bits x float parameters + 1 bit x binary parameters

These are the counts of Bi-Real Net (arXiv 1808.00278), which the paper follows. A MAC (multiply-accumulate) is binary, 64
of them to one xnor and one popcount, only when weight and activation are both one bit; if either is float, so is the MAC.
MACs on the zero padding count like any other. Not counted in the FLOPs: K and the weight scales of Eq. (1), batch norm,
pooling, activations and additions. Batch norm's parameters are its scale and shift, since the running statistics fold into
them; the weight scales fold into the next batch norm and are not counted.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator

from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import FORMS, LAYER_TYPES, LEARNABLE, NODES, ZEROISE, Genotype, reductions
from bnas_jax.core.rules import PAPER, REDUCTION_SKIPS, Rules

BINARY_OPS_PER_FLOP = 64
FLOAT_BITS = 32


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Everything that the size of a final network depends on. Raises `UserError` for what cannot be built.

    channels: C of Table 5, the width of the first cell's nodes. image_size: side of the square input, pixels.
    form: "cifar" or "imagenet", which differ in the stem. skip: the inter-cell skip connections (section 4.2).
    """

    genotype: Genotype
    num_cells: int
    channels: int
    image_size: int
    num_classes: int
    form: str
    image_channels: int = 3
    skip: bool = True
    rules: Rules = PAPER

    def __post_init__(self):
        if self.form not in FORMS:
            raise UserError(f"form must be one of {', '.join(FORMS)}, got {self.form!r}")
        if self.rules.reduction_skip not in REDUCTION_SKIPS:
            raise UserError(f"reduction_skip must be one of {', '.join(REDUCTION_SKIPS)}, got {self.rules.reduction_skip!r}")
        for name in ("num_cells", "channels", "image_size", "num_classes", "image_channels"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.channels % _channel_step(self.form):
            raise UserError(f"channels must be even in the imagenet form, whose stem halves them, got {self.channels}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counts:
    """Counts that add up. Units: MACs, and parameters of one bit (binary) or 32 bits (float)."""

    binary_macs: int = 0
    float_macs: int = 0
    binary_params: int = 0
    float_params: int = 0  # batch norm and biases included
    bn_params: int = 0  # how many of float_params are batch norm's

    @property
    def flops(self) -> float:
        """float MACs + binary MACs / 64."""
        return self.float_macs + self.binary_macs / BINARY_OPS_PER_FLOP

    @property
    def params(self) -> int:
        return self.float_params + self.binary_params

    @property
    def memory_bits(self) -> int:
        """Bits of all parameters, batch norm included."""
        return FLOAT_BITS * self.float_params + self.binary_params

    @property
    def memory_bits_without_bn(self) -> int:
        return self.memory_bits - FLOAT_BITS * self.bn_params


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerCost(Counts):
    """One layer: its name, its kind, the shape (h, w, c) of its output, and what it costs.

    kind: a layer type of the genotype, or "stem conv", "preprocess", "skip", "batch_norm", "linear".
    A batch norm in front of a convolution (BN, sign, conv) belongs to the convolution's row; one that follows a
    convolution has a row of its own, of kind "batch_norm".
    """

    name: str
    kind: str
    out_shape: tuple[int, int, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Totals(Counts):
    """The sums over the rows of a network."""


@dataclasses.dataclass(frozen=True)
class Ratios:
    """How many times less the binary network takes than a float one, by the counts (Table 9, appendix D)."""

    speedup: float  # of FLOPs
    memory_saving: float  # of memory_bits
    memory_saving_without_bn: float  # of memory_bits_without_bn


def layers(arch: Architecture) -> tuple[LayerCost, ...]:
    """One row per layer of the final network, in module order: stem; in each cell preprocess0, preprocess1, skip, the
    eight layers of the genotype; classifier. Additions and the identity skip of normal cells are no layers.

    Raises `UserError` for a genotype or an image size that the network cannot be built with.
    """
    stem, before, last = _imagenet_stem(arch) if arch.form == "imagenet" else _cifar_stem(arch)
    cells, features = _cells(arch, before, last)
    rows = (*stem, *cells, _classifier(arch, features))
    return _float_head(rows) if arch.rules.float_head else rows


def total(rows: Iterable[LayerCost]) -> Totals:
    """The sums of all counts."""
    rows = tuple(rows)
    names = [field.name for field in dataclasses.fields(Totals)]
    return Totals(**{name: sum(getattr(row, name) for row in rows) for name in names})


def float_twin(arch: Architecture) -> tuple[LayerCost, ...]:
    """The rows of the same architecture with every convolution float: float MACs, 32-bit weights."""
    return tuple(_with_float_weights(row) for row in layers(arch))


def ratios(arch: Architecture, reference_genotype: Genotype | None = None) -> Ratios:
    """Speed-up and memory saving of the binary network over a float twin; both counted, neither measured.

    reference_genotype: cell of the float network, `arch.genotype` by default. Table 9 takes the cell without Zeroise, as
    float networks have none; size, form and rules are those of `arch`.
    """
    reference = dataclasses.replace(arch, genotype=reference_genotype or arch.genotype)
    ours, theirs = total(layers(arch)), total(float_twin(reference))
    return Ratios(
        speedup=theirs.flops / ours.flops,
        memory_saving=theirs.memory_bits / ours.memory_bits,
        memory_saving_without_bn=theirs.memory_bits_without_bn / ours.memory_bits_without_bn,
    )


def fit_budget(
    arch: Architecture, flops: float, *, min_channels: int = 1, max_channels: int | None = None, cells: Iterable[int] = ()
) -> Architecture:
    """The architecture whose counted FLOPs come nearest to a budget without exceeding it.

    flops: the budget, in FLOPs. min_channels, max_channels: inclusive bounds on the width, which is even in the ImageNet form;
    without max_channels there is no upper one. cells: numbers of cells to choose from, such as range(5, 21), by default that of
    `arch` alone; of equally good ones the first. The rest is as in `arch`. `UserError` if the smallest is above the budget.
    """
    step = _channel_step(arch.form)
    least = math.ceil(max(min_channels, 1) / step) * step
    if not 0 < flops < math.inf:
        raise UserError(f"budget must be a positive number of FLOPs such as 1.5e7, got {flops}")
    if max_channels is not None and max_channels < least:
        raise UserError(f"max_channels must be at least {least}, the smallest width asked for, got {max_channels}")
    narrowest = [dataclasses.replace(arch, num_cells=n, channels=least) for n in tuple(cells) or (arch.num_cells,)]
    affordable = [candidate for candidate in narrowest if _flops(candidate) <= flops]
    if not affordable:
        needed = math.ceil(min(map(_flops, narrowest)))
        raise UserError(f"budget of {flops:g} FLOPs is too small; write at least {needed}, or fewer cells or smaller images")
    return max((_widest(candidate, flops, max_channels) for candidate in affordable), key=_flops)


def table(rows: Iterable[LayerCost]) -> str:
    """A plain-text table, one line per layer but Zeroise, with the totals and the formulas they come from."""
    rows = tuple(rows)
    sums = total(rows)
    head = ("layer", "kind", "output", "binary MACs", "float MACs", "FLOPs", "binary params", "float params", "of them BN")
    shown = [row for row in rows if row.kind != ZEROISE]
    body = [(row.name, row.kind, "x".join(map(str, row.out_shape)), *_numbers(row)) for row in shown]
    return "\n".join([*_aligned([head, *body, ("total", "", "", *_numbers(sums))]), "", *_formulas(sums)])


# What a cell reads: (side in pixels, channels).
_State = tuple[int, int]
_Rows = tuple[LayerCost, ...]


def _channel_step(form: str) -> int:
    # The first convolution of the ImageNet stem has half of them.
    return 2 if form == "imagenet" else 1


def _out_side(side: int, halved: bool) -> int:
    # Pooling and odd kernels are padded so that an odd side is rounded up.
    return (side + 1) // 2 if halved else side


def _conv(
    name: str, kind: str, source: _State, channels: int, kernel: int, stride: int = 1, bn: bool = True, bias: bool = False
) -> LayerCost:
    """A binary kernel x kernel convolution, padded so that only its stride (1 or 2) shrinks the image, dilated or not.

    bn: a batch norm with scale and shift stands in front of it.
    """
    side = _out_side(source[0], stride == 2)
    weights = kernel * kernel * source[1] * channels
    bn_params = 2 * source[1] if bn else 0
    return LayerCost(
        name=name,
        kind=kind,
        out_shape=(side, side, channels),
        binary_macs=side * side * weights,
        binary_params=weights,
        float_params=bn_params + (channels if bias else 0),
        bn_params=bn_params,
    )


def _with_float_inputs(row: LayerCost) -> LayerCost:
    """The same layer fed with float activations: its weights keep their bits, but its MACs are float."""
    return dataclasses.replace(row, binary_macs=0, float_macs=row.float_macs + row.binary_macs)


def _with_float_weights(row: LayerCost) -> LayerCost:
    """The same layer with 32-bit weights, all of whose MACs are therefore float."""
    row = _with_float_inputs(row)
    return dataclasses.replace(row, binary_params=0, float_params=row.float_params + row.binary_params)


def _batch_norm(name: str, after: LayerCost) -> LayerCost:
    params = 2 * after.out_shape[-1]
    return LayerCost(name=name, kind="batch_norm", out_shape=after.out_shape, float_params=params, bn_params=params)


def _state(row: LayerCost) -> _State:
    side, _, channels = row.out_shape
    return side, channels


def _stem_conv(name: str, source: _State, channels: int, stride: int, bn: bool) -> LayerCost:
    return _with_float_weights(_conv(name, "stem conv", source, channels, 3, stride, bn))


def _cifar_stem(arch: Architecture) -> tuple[_Rows, _State, _State]:
    """BN, 3x3 convolution to 3C, ReLU. Returns its rows and the two inputs of cell 0."""
    conv = _stem_conv("stem", (arch.image_size, arch.image_channels), 3 * arch.channels, stride=1, bn=True)
    return (conv,), _state(conv), _state(conv)


def _imagenet_stem(arch: Architecture) -> tuple[_Rows, _State, _State]:
    """Two 3x3 convolutions of stride 2, to C/2 and C, then a third; all but the first after a ReLU, BN after each."""
    first = _stem_conv("stem0.conv0", (arch.image_size, arch.image_channels), arch.channels // 2, stride=2, bn=False)
    second = _stem_conv("stem0.conv1", _state(first), arch.channels, stride=2, bn=False)
    third = _stem_conv("stem1.conv", _state(second), arch.channels, stride=2, bn=False)
    norms = ("stem0.bn0", first), ("stem0.bn1", second), ("stem1.bn", third)
    rows = tuple(row for name, conv in norms for row in (conv, _batch_norm(name, conv)))
    return rows, _state(second), _state(third)


def _cells(arch: Architecture, before: _State, last: _State) -> tuple[_Rows, int]:
    """Rows of all cells, and the number of channels that leave the last one."""
    rows: list[LayerCost] = []
    width = arch.channels
    # The ImageNet form hands cell 0 two states of different sizes, as if a reduction lay between them.
    reduced = arch.form == "imagenet"
    for index in range(arch.num_cells):
        reduction = index in reductions(arch.num_cells)
        width *= 2 if reduction else 1
        name = f"cells.{index}"
        rows += _preprocess(arch, name, before, last, width, reduced)
        if arch.skip and reduction and index > 0:
            rows += _reduction_skip(name, last, NODES * width, arch.rules.reduction_skip)
        rows += _ops(arch.genotype, name, last[0], width, reduction)
        before, last, reduced = last, (_out_side(last[0], reduction), NODES * width), reduction
    return tuple(rows), last[1]


def _preprocess(arch: Architecture, cell: str, before: _State, last: _State, width: int, reduced: bool) -> _Rows:
    """BN, sign and binary convolution that bring both inputs of a cell to its width and to one size.

    The BN before a strided one has neither scale nor shift in the CIFAR form, as released (the paper is silent).
    """
    kernel, stride = (3, 2) if reduced else (1, 1)
    bn = not reduced or arch.form == "imagenet"
    first = _conv(f"{cell}.preprocess0", "preprocess", before, width, kernel, stride, bn)
    return first, _conv(f"{cell}.preprocess1", "preprocess", last, width, 1)


def _reduction_skip(cell: str, source: _State, channels: int, how: str) -> _Rows:
    """BN and 2x2 convolution of stride 2, float or binary (`Rules.reduction_skip`)."""
    if source[0] % 2:
        raise UserError(
            f"image_size: {cell} halves an image of odd side {source[0]}, which its skip cannot;"
            " choose an image_size that halves evenly, or skip=False"
        )
    binary = how in ("binary", "binary_bn")
    conv = _conv(f"{cell}.skip", "skip", source, channels, 2, stride=2, bias=not binary)
    if how == "float":
        conv = _with_float_weights(conv)
    elif how == "binary_weight":
        conv = _with_float_inputs(conv)
    return (conv, _batch_norm(f"{cell}.skip_bn", conv)) if how == "binary_bn" else (conv,)


def _ops(genotype: Genotype, cell: str, side: int, width: int, reduction: bool) -> Iterator[LayerCost]:
    """The eight layers of the genotype. All end at one size whatever their stride, and the cost depends on that alone."""
    out_side = _out_side(side, reduction)
    for position, (layer, _) in enumerate(genotype.cell(reduction)):
        name = f"{cell}.ops.{position}"
        if layer in LEARNABLE:
            yield _conv(name, layer, (out_side, width), width, kernel=int(layer[-1]))
        elif layer in LAYER_TYPES:
            yield LayerCost(name=name, kind=layer, out_shape=(out_side, out_side, width))
        else:
            raise UserError(f"the cost of layer type {layer!r} is not known here; known: {', '.join(LAYER_TYPES)}")


def _classifier(arch: Architecture, features: int) -> LayerCost:
    """Global average pooling and a float linear layer with bias."""
    return LayerCost(
        name="classifier",
        kind="linear",
        out_shape=(1, 1, arch.num_classes),
        float_macs=features * arch.num_classes,
        float_params=features * arch.num_classes + arch.num_classes,
    )


def _float_head(rows: _Rows) -> _Rows:
    """`Rules.float_head`: the released code counts one kind of convolution and indexes another.

    Of as many last convolutions as there are skip convolutions, all but skips keep float weights. Their inputs stay signs, but
    every MAC of a float weight is float.
    """
    convs = [index for index, row in enumerate(rows) if row.kind != "linear" and row.float_macs + row.binary_macs]
    skips = sum(row.kind == "skip" for row in rows)
    changed = list(rows)
    for index in convs[len(convs) - skips :]:
        if rows[index].kind != "skip":
            changed[index] = _with_float_weights(rows[index])
    return tuple(changed)


def _flops(arch: Architecture) -> float:
    return total(layers(arch)).flops


def _widest(arch: Architecture, flops: float, limit: int | None) -> Architecture:
    """`arch`, which is within the budget, with as many channels as the budget and the limit allow.

    FLOPs grow with the channels, so double until it is too much, then halve the interval.
    """

    def affordable(channels):
        return (limit is None or channels <= limit) and _flops(dataclasses.replace(arch, channels=channels)) <= flops

    step = _channel_step(arch.form)
    low, high = arch.channels, 2 * arch.channels
    while affordable(high):
        low, high = high, 2 * high
    while high - low > step:
        middle = (low + high) // (2 * step) * step
        low, high = (middle, high) if affordable(middle) else (low, middle)
    return dataclasses.replace(arch, channels=low)


def _numbers(counts: Counts) -> tuple[str, ...]:
    params = (counts.binary_params, counts.float_params, counts.bn_params)
    return tuple(f"{number:,.0f}" for number in (counts.binary_macs, counts.float_macs, counts.flops, *params))


def _aligned(lines: list[tuple[str, ...]]) -> list[str]:
    """Columns of one width each: names to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligns = "<<<" + ">" * (len(widths) - 3)
    fields = [f"{{:{align}{width}}}" for align, width in zip(aligns, widths, strict=True)]
    return ["  ".join(fields).format(*line).rstrip() for line in lines]


def _formulas(sums: Totals) -> list[str]:
    return [
        f"FLOPs = float MACs + binary MACs / {BINARY_OPS_PER_FLOP}"
        f" = {sums.float_macs:,} + {sums.binary_macs:,} / {BINARY_OPS_PER_FLOP} = {sums.flops:,.0f}",
        f"memory = {FLOAT_BITS} bits x float params + 1 bit x binary params"
        f" = {FLOAT_BITS} x {sums.float_params:,} + {sums.binary_params:,} = {sums.memory_bits:,} bits"
        f" ({sums.memory_bits_without_bn:,} without batch norm)",
        f"params = {sums.params:,}",
        "Counted from shapes, not measured. A MAC is binary when weight and activation both are. Not counted: K and scale",
        "factors, batch norm, pooling, activations and additions. Zeroise layers cost nothing and have no line.",
    ]
