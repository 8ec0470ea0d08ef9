"""What a network of cells costs, counted by formulas from its sizes alone: what the
walk is compared with.

It shares nothing with the package but the genotype: no module, no plan of the stack, no
layer table.
"""

import dataclasses

from bnas_jax.core.genotype import Genotype

KERNELS = {
    "bin_conv_3x3": 3,
    "bin_dil_conv_3x3": 3,
    "bin_conv_5x5": 5,
    "bin_dil_conv_5x5": 5,
}
NODES = 4


@dataclasses.dataclass(frozen=True)
class Architecture:
    """image_size: side of the square input, pixels. reduction_skip, float_head: as in
    `Network`.
    """

    genotype: Genotype
    num_cells: int
    channels: int
    image_size: int
    num_classes: int
    form: str
    image_channels: int = 3
    skip: bool = True
    reduction_skip: str = "binary_bn"
    float_head: bool = False


@dataclasses.dataclass(frozen=True)
class Count:
    """One layer, its BN in front included."""

    side: int
    channels: int
    binary_macs: int = 0
    float_macs: int = 0
    binary_params: int = 0
    float_params: int = 0
    bn_params: int = 0
    is_conv: bool = True
    is_skip: bool = False

    @property
    def state(self) -> tuple[int, int]:
        return self.side, self.channels


FIELDS = ("binary_macs", "float_macs", "binary_params", "float_params", "bn_params")


def total(arch: Architecture) -> dict[str, int]:
    rows = layers(arch)
    return {name: sum(getattr(row, name) for row in rows) for name in FIELDS}


def layers(arch: Architecture) -> list[Count]:
    """Stem, cells and classifier, in the order of the released modules."""
    stem, before, last = (
        imagenet_stem(arch) if arch.form == "imagenet" else cifar_stem(arch)
    )
    rows, features = cells(arch, before, last)
    rows = stem + rows
    if arch.float_head:
        rows = with_float_head(rows)
    weights = features * arch.num_classes
    head = Count(
        1,
        arch.num_classes,
        float_macs=weights,
        float_params=weights + arch.num_classes,
        is_conv=False,
    )
    return [*rows, head]


def conv(
    source,
    channels: int,
    kernel: int,
    *,
    stride: int = 1,
    bn: bool = True,
    bias: bool = False,
) -> Count:
    """A binary convolution whose padding keeps the image's size at stride 1."""
    side = -(-source[0] // stride)
    weights = kernel * kernel * source[1] * channels
    norm = 2 * source[1] if bn else 0
    float_params = norm + (channels if bias else 0)
    return Count(side, channels, side * side * weights, 0, weights, float_params, norm)


def with_float_inputs(row: Count) -> Count:
    return dataclasses.replace(
        row, binary_macs=0, float_macs=row.float_macs + row.binary_macs
    )


def with_float_weights(row: Count) -> Count:
    row = with_float_inputs(row)
    return dataclasses.replace(
        row, binary_params=0, float_params=row.float_params + row.binary_params
    )


def batch_norm(after: Count) -> Count:
    params = 2 * after.channels
    return Count(*after.state, float_params=params, bn_params=params, is_conv=False)


def cifar_stem(arch: Architecture):
    row = with_float_weights(
        conv((arch.image_size, arch.image_channels), 3 * arch.channels, 3)
    )
    return [row], row.state, row.state


def imagenet_stem(arch: Architecture):
    rows, state = [], (arch.image_size, arch.image_channels)
    for channels in (arch.channels // 2, arch.channels, arch.channels):
        row = with_float_weights(conv(state, channels, 3, stride=2, bn=False))
        rows += [row, batch_norm(row)]
        before, state = state, row.state
    return rows, before, state


def cells(arch: Architecture, before, last):
    rows: list[Count] = []
    width, resize = arch.channels, arch.form == "imagenet"
    for index in range(arch.num_cells):
        reduction = index in {arch.num_cells // 3, 2 * arch.num_cells // 3}
        width *= 2 if reduction else 1
        # The BN in front of a strided preprocessing has no parameters in the CIFAR
        # form.
        kernel, stride = (3, 2) if resize else (1, 1)
        rows.append(
            conv(
                before,
                width,
                kernel,
                stride=stride,
                bn=not resize or arch.form == "imagenet",
            )
        )
        rows.append(conv(last, width, 1))
        if arch.skip and reduction and index > 0:
            rows += skip(last, NODES * width, arch.reduction_skip)
        side = last[0] // 2 if reduction else last[0]
        picked = arch.genotype.reduce if reduction else arch.genotype.normal
        rows += [
            conv((side, width), width, KERNELS[name])
            for node in picked
            for name, _ in node
            if name in KERNELS
        ]
        before, last, resize = last, (side, NODES * width), reduction
    return rows, last[1]


def skip(source, channels: int, how: str) -> list[Count]:
    binary = how in ("binary", "binary_bn")
    row = dataclasses.replace(
        conv(source, channels, 2, stride=2, bias=not binary), is_skip=True
    )
    if how == "float":
        row = with_float_weights(row)
    elif how == "binary_weight":
        row = with_float_inputs(row)
    return [row, batch_norm(row)] if how == "binary_bn" else [row]


def with_float_head(rows: list[Count]) -> list[Count]:
    """The last convolutions stay float, as many as there are skips, but not the skips
    among them.
    """
    convs = [index for index, row in enumerate(rows) if row.is_conv]
    skips = sum(row.is_skip for row in rows)
    dropped = convs[len(convs) - skips :]
    return [
        with_float_weights(row) if i in dropped and not row.is_skip else row
        for i, row in enumerate(rows)
    ]
