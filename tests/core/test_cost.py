"""Costs by walking: against the hand count, against modules' real parameters, and
against the sizes that the paper prints.
"""

import dataclasses

import flax.linen as nn
import hand_count
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from bnas_jax.core import genotype, genotypes
from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.cell_parts import REDUCTION_SKIPS
from bnas_jax.core.conventions import conventions
from bnas_jax.core.convolution import Convolution
from bnas_jax.core.cost import cost, fit_budget, float_twin, ratios
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import TABLE_3, Genotype
from bnas_jax.core.network import Network
from bnas_jax.core.ops.geometry import square
from bnas_jax.core.schemes import Cbcn, Float, Xnor
from bnas_jax.core.supernet import Supernet

ZEROISED = genotypes.load("latest_cell_zeroise")
WITHOUT = genotypes.load("latest_cell")
# The same for all networks, so that their cells are walked once: without K a walk is
# shorter.
SCHEME = Xnor(activation_scale=False)


def network(cell, num_cells, channels, num_classes=10, **options):
    sizes = {"num_cells": num_cells, "channels": channels, "num_classes": num_classes}
    return Network(genotype=cell, scheme=SCHEME, **sizes, **options)


def cifar(cell, num_cells, channels):
    return network(cell, num_cells, channels), (32, 32, 3)


def imagenet(num_cells, channels):
    return network(WITHOUT, num_cells, channels, 1000, form="imagenet"), (224, 224, 3)


def by_hand(net, image_shape):
    """The totals of the hand count."""
    names = (
        "genotype",
        "num_cells",
        "channels",
        "num_classes",
        "form",
        "skip",
        "reduction_skip",
        "float_head",
    )
    fields = {name: getattr(net, name) for name in names}
    arch = hand_count.Architecture(
        image_size=image_shape[0], image_channels=image_shape[2], **fields
    )
    return hand_count.total(arch)


def walked_totals(net, image_shape, cells=None):
    total = cost(net, image_shape=image_shape, walked=cells).total
    return {name: getattr(total, name) for name in hand_count.FIELDS}


@pytest.fixture(scope="module")
def cells():
    """Cells that were walked, for all tests of this file."""
    return {}


A, A_WITHOUT = cifar(ZEROISED, 20, 36), cifar(WITHOUT, 20, 36)
D, E = imagenet(12, 64), imagenet(12, 68)

# Parameters as the released network has them (its float skips with bias); 1e8 FLOPs by
# the conventions: with binary skips (`paper`), with float ones (`meant`), and with the
# last convolutions float, too (`release`). The table of docs/conventions.md. The
# parameters of A and of the released f are those that the released code logs.
SIZES = {
    "Mini": (cifar(ZEROISED, 10, 24), 1_473_784, ".050", ".422", ".526"),
    "A": (A, 5_578_252, ".152", ".988", "1.223"),
    "A without Zeroise": (A_WITHOUT, 15_115_516, ".365", "1.20", "1.44"),
    "B": (cifar(ZEROISED, 12, 64), 10_945_744, ".303", "2.95", "3.69"),
    "C": (cifar(ZEROISED, 16, 108), 42_360_532, ".995", "8.52", "10.64"),
    "D": (D, 28_407_560, "1.476", "3.50", "4.07"),
    "E": (E, 31_997_890, "1.658", "3.94", "4.58"),
    "released f": (imagenet(15, 68), 39_781_442, "1.79", "4.08", "4.72"),
    "F": (imagenet(12, 84), 48_494_410, "2.494", "5.98", "6.96"),
    "G": (imagenet(16, 128), 160_016_936, "6.309", "14.4", "16.7"),
}


def to_the_digits_of(expected, value):
    """`value` rounded to as many decimals as the text `expected` has, as a number."""
    return round(value, len(expected.partition(".")[2]))


# The others are as large as these, or larger, and take longer to walk.
SHORT_SIZES = ("Mini", "A", "A without Zeroise", "B", "D")


@pytest.mark.parametrize(
    "name",
    [
        name if name in SHORT_SIZES else pytest.param(name, marks=pytest.mark.long)
        for name in SIZES
    ],
)
def test_sizes_of_the_paper_are_those_counted_by_hand_and_by_walking(name, cells):
    (net, image_shape), params, *flops = SIZES[name]
    for convention, expected in zip(("paper", "meant", "release"), flops, strict=True):
        of_convention = net.clone(**conventions(convention).network)
        total = cost(of_convention, image_shape=image_shape, walked=cells).total
        assert {f: getattr(total, f) for f in hand_count.FIELDS} == by_hand(
            of_convention, image_shape
        ), convention
        assert to_the_digits_of(expected, total.flops / 1e8) == float(expected), (
            convention
        )
        if convention == "release":
            assert total.params == params


@pytest.mark.parametrize(
    ("net", "image_shape", "params"),
    [
        (network(ZEROISED, 5, 4), (16, 16, 3), 26_380),
        (network(WITHOUT, 5, 4), (16, 16, 3), 53_644),
        (network(WITHOUT, 6, 4, 7, form="imagenet"), (64, 64, 3), 54_913),
    ],
)
def test_parameters_of_small_released_networks(net, image_shape, params, cells):
    """The released code, built at these sizes, has so many trainable parameters."""
    net = net.clone(**conventions("release").network)
    assert cost(net, image_shape=image_shape, walked=cells).total.params == params


@pytest.mark.parametrize(("name", "printed"), [("F", 2.49e8), ("G", 6.39e8)])
def test_f_and_g_count_what_table_13_prints_with_their_cell_and_not_that_of_its_gamma(
    name, printed
):
    (net, image_shape), *_ = SIZES[name]
    flops = lambda cell: flops_by_hand(net.clone(genotype=cell), image_shape)
    assert flops(WITHOUT) == pytest.approx(printed, rel=0.02)
    assert flops(ZEROISED) < 0.8 * printed


def test_only_a_float_stem_gives_bnas_d_its_flops(cells):
    """The three convolutions of its stem, although the paper only names the first."""
    net, image_shape = D
    found = cost(net, image_shape=image_shape, walked=cells)
    stem = [row for row in found.rows if row.name.startswith("stem/conv")]
    assert len(stem) == 3
    saved = sum(row.float_macs for row in stem[1:]) * 63 / 64
    assert found.total.flops == pytest.approx(1.48e8, rel=0.01)
    assert digits(found.total.flops - saved, 2) == 0.62e8


def flops_by_hand(net, image_shape):
    counts = by_hand(net, image_shape)
    return counts["float_macs"] + counts["binary_macs"] / 64


def digits(number, count=3):
    return float(f"{number:.{count}g}")


def test_table_9_counts_the_skip_binary_and_the_float_network_without_zeroise(cells):
    count = lambda net: cost(
        net.clone(reduction_skip="binary"), image_shape=(32, 32, 3), walked=cells
    )
    reference = count(float_twin(A_WITHOUT[0]))
    without, with_ = (ratios(count(net), reference) for net, _ in (A_WITHOUT, A))
    assert (digits(without.speedup), digits(with_.speedup)) == (58.8, 141)
    assert (
        digits(without.memory_saving_without_bn),
        digits(with_.memory_saving_without_bn),
    ) == (
        31.4,
        82.9,
    )
    assert digits(without.memory_saving) == 28.5
    # The printed figures.
    assert (without.speedup, with_.speedup) == pytest.approx((58.01, 149.14), rel=0.1)
    assert (
        without.memory_saving_without_bn,
        with_.memory_saving_without_bn,
    ) == pytest.approx((31.79, 91.06), rel=0.1)


def test_appendix_d_counts_the_skip_binary_and_batch_norm_too(cells):
    count = lambda net: cost(
        net.clone(reduction_skip="binary"), image_shape=(224, 224, 3), walked=cells
    )
    ours = [ratios(count(net), count(float_twin(net))) for net, _ in (D, E)]
    assert [digits(r.speedup) for r in ours] == [21.9, 22.0]
    assert [digits(r.memory_saving) for r in ours] == [14.3, 14.8]
    # The printed figures.
    assert [r.speedup for r in ours] == pytest.approx([20.85, 21.15], rel=0.1)
    assert [r.memory_saving for r in ours] == pytest.approx([13.91, 14.51], rel=0.1)


def test_a_float_skip_is_not_what_the_paper_counts(cells):
    net, image_shape = D
    net = net.clone(reduction_skip="float")
    found = ratios(
        *(
            cost(one, image_shape=image_shape, walked=cells)
            for one in (net, float_twin(net))
        )
    )
    assert (digits(found.speedup), digits(found.memory_saving)) == (9.25, 6.28)


# One cell by hand: 8x8 images, C = 2, so 6 channels leave the stem and 4 * 2 = 8 the
# first cell.
SMALL_CELLS = Genotype(
    normal=(
        ("bin_conv_3x3", 0), ("bin_dil_conv_5x5", 1), ("none", 0), ("max_pool_3x3", 1),
        ("avg_pool_3x3", 2), ("none", 3), ("bin_dil_conv_3x3", 4), ("bin_conv_5x5", 2),
    ),
    reduce=(
        ("bin_conv_5x5", 0), ("bin_conv_3x3", 1), ("bin_dil_conv_3x3", 2),
        ("max_pool_3x3", 0), ("none", 3), ("none", 3), ("none", 4), ("none", 4),
    ),
)  # fmt: skip
SMALL = network(SMALL_CELLS, 5, 2, 7)
SHAPE = (8, 8, 3)

BY_HAND = {
    # name: (kind, output shape, binary MACs, float MACs, binary params, float params,
    # of them BN)
    "stem/bn": ("BatchNorm", (8, 8, 3), 0, 0, 0, 2 * 3, 2 * 3),
    "stem/conv": ("FloatConv", (8, 8, 6), 0, 64 * 9 * 3 * 6, 0, 9 * 3 * 6, 0),
    # A normal cell, 64 pixels.
    "cell0/preprocess/input0/bn": ("BatchNorm", (8, 8, 6), 0, 0, 0, 2 * 6, 2 * 6),
    "cell0/preprocess/input0/conv": (
        "Convolution",
        (8, 8, 2),
        64 * 6 * 2,
        0,
        6 * 2,
        0,
        0,
    ),
    "cell0/preprocess/input1/bn": ("BatchNorm", (8, 8, 6), 0, 0, 0, 2 * 6, 2 * 6),
    "cell0/preprocess/input1/conv": (
        "Convolution",
        (8, 8, 2),
        64 * 6 * 2,
        0,
        6 * 2,
        0,
        0,
    ),
    "cell0/layer0/bn": ("BatchNorm", (8, 8, 2), 0, 0, 0, 2 * 2, 2 * 2),
    "cell0/layer0/conv": ("Convolution", (8, 8, 2), 64 * 9 * 2 * 2, 0, 9 * 2 * 2, 0, 0),
    "cell0/layer1/bn": ("BatchNorm", (8, 8, 2), 0, 0, 0, 2 * 2, 2 * 2),
    "cell0/layer1/conv": (
        "Convolution",
        (8, 8, 2),
        64 * 25 * 2 * 2,
        0,
        25 * 2 * 2,
        0,
        0,
    ),
    "cell0/layer6/bn": ("BatchNorm", (8, 8, 2), 0, 0, 0, 2 * 2, 2 * 2),
    "cell0/layer6/conv": ("Convolution", (8, 8, 2), 64 * 9 * 2 * 2, 0, 9 * 2 * 2, 0, 0),
    "cell0/layer7/bn": ("BatchNorm", (8, 8, 2), 0, 0, 0, 2 * 2, 2 * 2),
    "cell0/layer7/conv": (
        "Convolution",
        (8, 8, 2),
        64 * 25 * 2 * 2,
        0,
        25 * 2 * 2,
        0,
        0,
    ),
    # A reduction cell: twice the width, 16 pixels; its inputs are still of the old
    # size.
    "cell1/preprocess/input0/bn": ("BatchNorm", (8, 8, 6), 0, 0, 0, 2 * 6, 2 * 6),
    "cell1/preprocess/input0/conv": (
        "Convolution",
        (8, 8, 4),
        64 * 6 * 4,
        0,
        6 * 4,
        0,
        0,
    ),
    "cell1/preprocess/input1/bn": ("BatchNorm", (8, 8, 8), 0, 0, 0, 2 * 8, 2 * 8),
    "cell1/preprocess/input1/conv": (
        "Convolution",
        (8, 8, 4),
        64 * 8 * 4,
        0,
        8 * 4,
        0,
        0,
    ),
    "cell1/layer0/bn": ("BatchNorm", (8, 8, 4), 0, 0, 0, 2 * 4, 2 * 4),
    "cell1/layer0/conv": (
        "Convolution",
        (4, 4, 4),
        16 * 25 * 4 * 4,
        0,
        25 * 4 * 4,
        0,
        0,
    ),
    "cell1/layer1/bn": ("BatchNorm", (8, 8, 4), 0, 0, 0, 2 * 4, 2 * 4),
    "cell1/layer1/conv": ("Convolution", (4, 4, 4), 16 * 9 * 4 * 4, 0, 9 * 4 * 4, 0, 0),
    "cell1/layer2/bn": ("BatchNorm", (4, 4, 4), 0, 0, 0, 2 * 4, 2 * 4),
    "cell1/layer2/conv": ("Convolution", (4, 4, 4), 16 * 9 * 4 * 4, 0, 9 * 4 * 4, 0, 0),
    "cell1/skip/reduction/bn": ("BatchNorm", (8, 8, 8), 0, 0, 0, 2 * 8, 2 * 8),
    "cell1/skip/reduction/conv": (
        "Convolution",
        (4, 4, 16),
        16 * 4 * 8 * 16,
        0,
        4 * 8 * 16,
        0,
        0,
    ),
    "cell1/skip/reduction/bn_after": ("BatchNorm", (4, 4, 16), 0, 0, 0, 2 * 16, 2 * 16),
    # The cell after it brings its first input, of cell 0, down by a strided 3x3
    # convolution, whose BN has no parameters.
    "cell2/preprocess/input0/conv": (
        "Convolution",
        (4, 4, 4),
        16 * 9 * 8 * 4,
        0,
        9 * 8 * 4,
        0,
        0,
    ),
    "cell2/preprocess/input1/bn": ("BatchNorm", (4, 4, 16), 0, 0, 0, 2 * 16, 2 * 16),
    "cell2/preprocess/input1/conv": (
        "Convolution",
        (4, 4, 4),
        16 * 16 * 4,
        0,
        16 * 4,
        0,
        0,
    ),
    # Cells 2 to 4 continue; the last has 4 * 8 channels.
    "classifier": ("Classifier", (7,), 0, 32 * 7, 0, 32 * 7 + 7, 0),
}


@pytest.fixture(scope="module")
def small(cells):
    return cost(SMALL, image_shape=SHAPE, walked=cells)


def test_a_small_network_by_hand(small):
    rows = {row.name: row for row in small.rows}
    for name, expected in BY_HAND.items():
        row = rows[name]
        counts = [getattr(row, field) for field in hand_count.FIELDS]
        assert (row.kind, row.out_shape, *counts) == expected, name
    names = [row.name for row in small.rows]
    assert names[: len(BY_HAND) - 1] == list(BY_HAND)[:-1], (
        "rows are in the order of the pass and none is missing"
    )
    assert names[-1] == "classifier"
    # A cell that is not walked again has rows under its own name.
    assert {name.split("/")[0] for name in names} == {
        "stem",
        *(f"cell{i}" for i in range(5)),
        "classifier",
    }


def test_flops_and_bits_of_a_row(small):
    rows = {row.name: row for row in small.rows}
    conv, norm = rows["cell0/layer0/conv"], rows["cell0/layer0/bn"]
    assert conv.flops == 64 * 9 * 2 * 2 / 64
    assert conv.memory_bits == conv.memory_bits_without_bn == conv.params == 9 * 2 * 2
    assert (norm.flops, norm.memory_bits, norm.memory_bits_without_bn) == (0, 32 * 4, 0)
    stem = rows["stem/conv"]
    assert (stem.flops, stem.memory_bits) == (64 * 9 * 3 * 6, 32 * 9 * 3 * 6)


def test_total_sums_every_count(small):
    for name in (*hand_count.FIELDS, "flops", "memory_bits", "params"):
        assert (
            getattr(small.total, name)
            == sum(getattr(row, name) for row in small.rows)
            > 0
        ), name


@pytest.mark.parametrize("how", REDUCTION_SKIPS)
@pytest.mark.parametrize("form", genotype.FORMS)
def test_every_skip_is_counted_as_by_hand(how, form, cells):
    shape = (64, 64, 3) if form == "imagenet" else SHAPE
    for float_head in (False, True):
        net = SMALL.clone(form=form, reduction_skip=how, float_head=float_head)
        assert walked_totals(net, shape, cells) == by_hand(net, shape), float_head


@pytest.mark.parametrize("num_cells", [1, 2, 3, 6])
def test_without_skips_any_number_of_cells_is_counted_as_by_hand(num_cells, cells):
    net = network(ZEROISED, num_cells, 4, skip=False, float_head=True)
    assert walked_totals(net, (16, 16, 1), cells) == by_hand(net, (16, 16, 1))
    assert not [
        row
        for row in cost(net, image_shape=(16, 16, 1), walked=cells).rows
        if "skip" in row.name
    ]


def test_the_index_error_makes_macs_float_and_changes_no_number_of_parameters(
    small, cells
):
    head = cost(SMALL.clone(float_head=True), image_shape=SHAPE, walked=cells)
    changed = {
        new.name: new
        for old, new in zip(small.rows, head.rows, strict=True)
        if old != new
    }
    assert list(changed) == ["cell4/layer6/conv", "cell4/layer7/conv"]
    row = changed["cell4/layer6/conv"]
    assert (row.binary_macs, row.float_macs, row.binary_params, row.float_params) == (
        0,
        4 * 9 * 64,
        0,
        9 * 64,
    )
    assert head.total.params == small.total.params


def test_the_float_twin_has_the_same_layers_all_float(small, cells):
    twin = cost(float_twin(SMALL), image_shape=SHAPE, walked=cells)
    assert [(row.name, row.out_shape) for row in twin.rows] == [
        (row.name, row.out_shape) for row in small.rows
    ]
    ours, theirs = small.total, twin.total
    assert (theirs.binary_macs, theirs.binary_params) == (0, 0)
    assert theirs.flops == ours.binary_macs + ours.float_macs
    assert (theirs.params, theirs.bn_params) == (ours.params, ours.bn_params)


def test_scales_and_signs_cost_nothing(small):
    paper = SMALL.clone(scheme=Xnor(weight_gradient="paper", sign_of_zero=0))
    assert cost(paper, image_shape=SHAPE).rows == small.rows


def real_parameters(model, *inputs):
    """(those of one bit, all others) of the variables that the model has."""
    variables = jax.eval_shape(
        lambda *inputs: model.init(jax.random.key(0), *inputs), *inputs
    )
    flat = traverse_util.flatten_dict(variables["params"])
    binary = sum(
        leaf.size for path, leaf in flat.items() if path[-1].startswith("latent")
    )
    return binary, sum(leaf.size for leaf in flat.values()) - binary


def parameters(model, image_shape):
    total = cost(model, image_shape=image_shape).total
    return total.binary_params, total.float_params


@pytest.mark.parametrize(
    ("form", "convention", "options"),
    [
        ("cifar", "paper", {}),
        ("cifar", "release", {"scheme": Float()}),
        ("imagenet", "release", {}),
        pytest.param("imagenet", "meant", {"skip": False}, marks=pytest.mark.long),
    ],
)
def test_parameters_of_a_network_are_those_it_has(form, convention, options):
    net = (
        network(SMALL_CELLS, 6, 4, form=form)
        .clone(**conventions(convention).network)
        .clone(**options)
    )
    size = 64 if form == "imagenet" else 8
    assert parameters(net, (size, size, 1)) == real_parameters(
        net, jnp.zeros((1, size, size, 1))
    )


SUPERNET = Supernet(num_cells=2, channels=3, num_classes=5, scheme=SCHEME)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"float_head": True, "reduction_skip": "float"},
        {"edges": "plain"},
        {"scheme": Float()},
    ],
    ids=["paper", "release", "plain", "float"],
)
def test_parameters_of_a_supernet_are_those_it_has(changes):
    net = SUPERNET.clone(**changes)
    alphas = {name: jnp.zeros((14, 7)) for name in ("normal", "reduce")}
    assert parameters(net, (8, 8, 1)) == real_parameters(
        net, alphas, jnp.zeros((1, 8, 8, 1))
    )


def test_a_supernet_by_hand():
    """Two reduction cells of 6 and 12 channels; 9 channels leave the stem and 24 the
    first cell.
    """
    assert SUPERNET.layer_types == TABLE_3
    taps = 2 * (3 * 3 + 5 * 5)
    cells = sum(14 * taps * width**2 * side**2 for width, side in ((6, 4), (12, 2)))
    skip = 2 * 2 * 2 * 2 * 24 * 48
    preprocess = 8 * 8 * 2 * 9 * 6 + 4 * 4 * (9 * 9 * 12 + 24 * 12)
    stem, classifier = 8 * 8 * 9 * 1 * 9, 48 * 5
    total = cost(SUPERNET, image_shape=(8, 8, 1)).total
    assert (total.binary_macs, total.float_macs) == (
        cells + skip,
        preprocess + stem + classifier,
    )


class WithoutMacs(nn.Module):
    """Something of a user's that cannot be counted."""

    arithmetic: Arithmetic = Arithmetic()
    shape: tuple[int, ...] = (3, 5)

    @nn.compact
    def __call__(self, x, *, train: bool = False):
        return x + self.param("weights", nn.initializers.zeros, self.shape).sum()


def test_kernels_whose_macs_are_not_known_are_refused():
    with pytest.raises(
        UserError, match=r"WithoutMacs\) has kernels but no method macs\(x, y\)"
    ) as caught:
        cost(WithoutMacs(), image_shape=(4, 4, 3))
    assert "\n" not in str(caught.value)
    total = cost(WithoutMacs(shape=(5,)), image_shape=(4, 4, 3)).total
    assert (total.flops, total.float_params, total.bn_params) == (0, 5, 0), (
        "a vector has no products"
    )


class OfFlax(nn.Module):
    """A user's module of layers that are Flax's."""

    arithmetic: Arithmetic = Arithmetic()

    @nn.compact
    def __call__(self, x, *, train: bool = False):
        x = nn.Conv(6, (3, 3), strides=2, feature_group_count=3)(x)
        return nn.Dense(5, use_bias=False)(x.mean(axis=(1, 2)))


def test_layers_of_flax_are_counted():
    """Four pixels of six channels, each of 3x3 of one channel; then 6 times 5."""
    rows = cost(OfFlax(), image_shape=(4, 4, 3)).rows
    assert [row.float_macs for row in rows] == [4 * 6 * 9, 6 * 5]
    assert [row.float_params for row in rows] == [6 * 9 + 6, 6 * 5]


class Plain(nn.Module):
    """A module of a user's without an arithmetic."""

    @nn.compact
    def __call__(self, x, *, train: bool = False):
        return x + self.param("bias", nn.initializers.zeros, (3,))


def test_a_module_needs_no_arithmetic_to_be_counted():
    assert cost(Plain(), image_shape=(4, 4, 3)).total.float_params == 3


class Twice(nn.Module):
    """A convolution that runs on its own output."""

    @nn.compact
    def __call__(self, x, *, train: bool = False):
        fields = {"scheme": Float(), "arithmetic": Arithmetic()}
        conv = Convolution(3, kernel=(3, 3), geometry=square(3), **fields)
        return conv(conv(x))


def test_what_runs_twice_has_its_products_twice_and_its_parameters_once():
    total = cost(Twice(), image_shape=(4, 4, 3)).total
    assert (total.float_macs, total.params) == (2 * 4 * 4 * 81, 81)


# Few layers, as a budget walks three widths for each number of cells.
TINY_CELL = (("bin_conv_3x3", 0), ("none", 1)) + (("none", 0), ("none", 1)) * 3
TINY = network(Genotype(normal=TINY_CELL, reduce=TINY_CELL), 5, 2, 7)


def test_equal_cells_are_walked_once():
    """Of twenty: the first two, which read the stem; a reduction, the cell behind it,
    and all others, at each width.
    """
    found: dict = {}
    net = TINY.clone(num_cells=20)
    whole = cost(net, image_shape=SHAPE, walked=found)
    assert len(found) == 9
    assert (
        cost(net.clone(num_cells=21), image_shape=SHAPE, walked=found).total.params
        > whole.total.params
    )
    assert len(found) == 9
    cost(net.clone(reduction_skip="float"), image_shape=SHAPE, walked=found)
    assert len(found) == 11, "both reductions"


def fitted(budget, **options):
    return fit_budget(TINY, budget, image_shape=SHAPE, **options)


def tiny_flops(**changes):
    return flops_by_hand(TINY.clone(**changes), SHAPE)


def test_fit_budget_over_cells_is_the_best_of_all_of_them():
    budget, numbers = 1e5, range(3, 7)
    found = fitted(budget, cells=numbers)
    reached = {
        (n, c): tiny_flops(num_cells=n, channels=c)
        for n in numbers
        for c in range(1, 80)
    }
    best = max(flops for flops in reached.values() if flops <= budget)
    assert max(reached.values()) > budget
    assert reached[found.num_cells, found.channels] == best
    assert found == TINY.clone(num_cells=found.num_cells, channels=found.channels)


@pytest.mark.long
def test_fit_budget_may_use_the_budget_up():
    budget = tiny_flops(channels=13)
    assert fitted(budget).channels == 13
    assert fitted(budget - 0.01).channels == 12


@pytest.mark.long
def test_fit_budget_finds_the_width_of_the_paper():
    """Table 7 prints 1.48e8 FLOPs for D; by Table 5 it has 12 cells of 64 channels."""
    net, image_shape = D
    found = fit_budget(
        net.clone(reduction_skip="binary", channels=2), 1.48e8, image_shape=image_shape
    )
    assert found == net.clone(reduction_skip="binary")


@pytest.mark.long
def test_fit_budget_keeps_within_bounds():
    assert fitted(1e9, max_channels=9).channels == 9
    assert fitted(1e9, min_channels=9, max_channels=9).channels == 9
    with pytest.raises(UserError, match=r"^budget of .* .* write at least \d+"):
        fitted(tiny_flops(channels=9) - 1, min_channels=9)
    with pytest.raises(
        UserError,
        match="max_channels must be at least 4, the smallest width asked for, got 3",
    ):
        fitted(1e6, min_channels=4, max_channels=3)


@pytest.mark.long
def test_fit_budget_drops_numbers_of_cells_that_are_too_many():
    assert fitted(tiny_flops(num_cells=3, channels=1), cells=(8, 3)).num_cells == 3


def test_an_impossible_budget_says_what_to_write():
    with pytest.raises(UserError) as error:
        fitted(100)
    message = str(error.value)
    assert "\n" not in message
    written = int(message.split("write at least ")[1].split(",")[0])
    assert fitted(written).channels == 1
    with pytest.raises(UserError):
        fitted(written - 1)


@pytest.mark.parametrize("budget", [0, -1, float("nan"), float("inf")])
def test_a_budget_is_a_positive_number(budget):
    with pytest.raises(UserError, match="budget must be a positive number"):
        fitted(budget)


@pytest.mark.long
def test_fit_budget_of_the_imagenet_form_has_even_widths():
    net, shape = TINY.clone(form="imagenet", num_cells=3), (32, 32, 3)
    flops = lambda channels: flops_by_hand(net.clone(channels=channels), shape)
    for channels in (2, 14):
        assert fit_budget(net, flops(channels), image_shape=shape).channels == channels
        assert (
            fit_budget(net, flops(channels + 2) - 1, image_shape=shape).channels
            == channels
        )
    assert (
        fit_budget(net, 1e9, image_shape=shape, min_channels=5, max_channels=7).channels
        == 6
    )


MOBINET = Genotype(
    normal=(("mobinet_k4_3x3", 0), ("mobinet_k4_3x3", 1)) * 4, reduce=WITHOUT.reduce
)


@pytest.mark.parametrize(
    ("cells", "scheme", "step"),
    [
        # GDAS's fixed reduction has convolutions in 8 groups, of twice the channels.
        pytest.param(genotypes.load("gdas_f1"), Xnor(), 4, marks=pytest.mark.long),
        pytest.param(genotypes.load("gdas_f1"), Cbcn(), 16, marks=pytest.mark.long),
        # Each output sees 4 channels where 4 divides them.
        pytest.param(MOBINET, Xnor(), 4, marks=pytest.mark.long),
    ],
)
def test_fit_budget_is_right_where_groups_depend_on_the_width(cells, scheme, step):
    net = TINY.clone(genotype=cells, scheme=scheme, num_cells=3)
    flops = lambda channels: (
        cost(net.clone(channels=channels), image_shape=SHAPE).total.flops
    )
    # Wider than the three widths that the others follow from.
    channels = 4 * step
    for budget in (flops(channels), flops(channels + step) - 1):
        assert fit_budget(net, budget, image_shape=SHAPE).channels == channels


def test_table_shows_each_module_the_totals_and_the_formulas(small):
    text, total = small.table(), small.total
    lines = text.splitlines()
    assert lines[0].split()[:3] == ["layer", "kind", "output"]
    skip = next(line for line in lines if line.startswith("cell1/skip/reduction/conv "))
    assert skip.split() == [
        "cell1/skip/reduction/conv",
        "Convolution",
        "4x4x16",
        "8,192",
        "0",
        "128",
        "512",
        "0",
        "0",
    ]
    totals = next(line for line in lines if line.startswith("total")).split()
    assert totals[1:3] == [f"{total.binary_macs:,}", f"{total.float_macs:,}"]
    flops = f"{total.float_macs:,} + {total.binary_macs:,} / 64 = {total.flops:,.0f}"
    assert f"FLOPs = float MACs + binary MACs / 64 = {flops}" in lines
    assert any(
        line.startswith("memory = 32 bits x float params + 1 bit x binary params")
        for line in lines
    )
    assert (
        f"{total.memory_bits:,} bits ({total.memory_bits_without_bn:,} without batch "
        "norm)" in text
    )
    assert "Counted from shapes, not measured." in text
    assert [line.split()[0] for line in lines[1 : len(small.rows) + 1]] == [
        row.name for row in small.rows
    ]
    assert len({len(line) for line in text.split("\n\n")[0].splitlines()}) == 1, (
        "columns line up"
    )


def test_images_and_layers_that_the_network_cannot_have_are_refused():
    with pytest.raises(
        UserError,
        match=(
            "images of 10 pixels at the first cell cannot be halved by 2 reduction "
            "cells"
        ),
    ):
        cost(SMALL, image_shape=(10, 10, 3))
    unknown = genotype.Genotype(
        (("conv_9x9", 0), ("none", 1)) * 4, SMALL.genotype.reduce
    )
    with pytest.raises(UserError, match="'conv_9x9'"):
        cost(SMALL.clone(genotype=unknown), image_shape=SHAPE)


def test_counts_are_whole_numbers(small):
    assert {
        type(getattr(row, field)) for row in small.rows for field in hand_count.FIELDS
    } == {int}
    assert dataclasses.is_dataclass(small) and np.isfinite(small.total.flops)
