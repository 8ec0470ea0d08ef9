"""The counts of cost.py: by hand for small networks, and against the sizes that the paper and the released code print."""

import dataclasses

import pytest

from bnas_jax.core import cost, genotype
from bnas_jax.core.errors import UserError
from bnas_jax.core.rules import MEANT, PAPER, RELEASE

ZEROISED = genotype.load("latest_cell_zeroise")
WITHOUT = genotype.load("latest_cell")


def cifar(cell, num_cells, channels, rules=MEANT, **options):
    return cost.Architecture(cell, num_cells, channels, 32, 10, "cifar", rules=rules, **options)


def imagenet(num_cells, channels, rules=MEANT, **options):
    return cost.Architecture(WITHOUT, num_cells, channels, 224, 1000, "imagenet", rules=rules, **options)


def with_skip(arch, how):
    return dataclasses.replace(arch, rules=dataclasses.replace(arch.rules, reduction_skip=how))


def named_rows(arch):
    return {row.name: row for row in cost.layers(arch)}


MINI, A, A_WITHOUT = cifar(ZEROISED, 10, 24), cifar(ZEROISED, 20, 36), cifar(WITHOUT, 20, 36)
B, C = cifar(ZEROISED, 12, 64), cifar(ZEROISED, 16, 108)
D, E, F_RELEASE = imagenet(12, 64), imagenet(12, 68), imagenet(15, 68)
F, G = imagenet(12, 84), imagenet(16, 128)

# Parameters as the released network has them (its float skips with bias); 1e8 FLOPs with binary and with float skips, and
# with its last convolutions float, too. The parameters of A and of the released f are those that the released code logs.
SIZES = {
    "Mini": (MINI, 1_473_784, ".050", ".422", ".526"),
    "A": (A, 5_578_252, ".152", ".988", "1.223"),
    "A without Zeroise": (A_WITHOUT, 15_115_516, ".365", "1.20", "1.44"),
    "B": (B, 10_945_744, ".303", "2.95", "3.69"),
    "C": (C, 42_360_532, ".995", "8.52", "10.64"),
    "D": (D, 28_407_560, "1.476", "3.50", "4.07"),
    "E": (E, 31_997_890, "1.658", "3.94", "4.58"),
    "released f": (F_RELEASE, 39_781_442, "1.79", "4.08", "4.72"),
    "F": (F, 48_494_410, "2.494", "5.98", "6.96"),
    "G": (G, 160_016_936, "6.309", "14.4", "16.7"),
}


def to_the_digits_of(expected, value):
    """`value` rounded to as many decimals as the text `expected` has, as a number."""
    return round(value, len(expected.partition(".")[2]))


@pytest.mark.parametrize(("arch", "params", "binary_skip", "float_skip", "released"), SIZES.values(), ids=SIZES)
def test_sizes_of_the_paper(arch, params, binary_skip, float_skip, released):
    assert cost.total(cost.layers(arch)).params == params
    for how in cost.REDUCTION_SKIPS:
        expected = float_skip if how in ("float", "binary_weight") else binary_skip
        flops = cost.total(cost.layers(with_skip(arch, how))).flops
        assert to_the_digits_of(expected, flops / 1e8) == float(expected), how
    assert to_the_digits_of(released, cost.total(cost.layers(head(arch))).flops / 1e8) == float(released)


@pytest.mark.parametrize(("arch", "printed"), [(F, 2.49e8), (G, 6.39e8)], ids=["F", "G"])
def test_f_and_g_count_what_table_13_prints_with_the_cell_of_their_presets_and_not_with_that_of_its_gamma(arch, printed):
    flops = lambda cell: cost.total(cost.layers(dataclasses.replace(with_skip(arch, "binary_bn"), genotype=cell))).flops
    assert flops(WITHOUT) == pytest.approx(printed, rel=0.02)
    assert flops(ZEROISED) < 0.8 * printed


@pytest.mark.parametrize(
    ("arch", "params"),
    [
        (cost.Architecture(ZEROISED, 5, 4, 16, 10, "cifar", rules=RELEASE), 26_380),
        (cost.Architecture(WITHOUT, 5, 4, 16, 10, "cifar", rules=RELEASE), 53_644),
        (cost.Architecture(WITHOUT, 6, 4, 224, 7, "imagenet", rules=RELEASE), 54_913),
    ],
)
def test_parameters_of_small_released_networks(arch, params):
    """The released code, built at these sizes, has so many trainable parameters."""
    assert cost.total(cost.layers(arch)).params == params


def digits(number, count):
    return float(f"{number:.{count}g}")


def test_table_9_counts_the_skip_binary_and_the_float_network_without_zeroise():
    without, with_ = (cost.ratios(with_skip(arch, "binary"), WITHOUT) for arch in (A_WITHOUT, A))
    assert (digits(without.speedup, 3), digits(with_.speedup, 3)) == (58.8, 141)
    assert (digits(without.memory_saving_without_bn, 3), digits(with_.memory_saving_without_bn, 3)) == (31.4, 82.9)
    assert digits(without.memory_saving, 3) == 28.5
    # The printed figures.
    assert (without.speedup, with_.speedup) == pytest.approx((58.01, 149.14), rel=0.1)
    assert (without.memory_saving_without_bn, with_.memory_saving_without_bn) == pytest.approx((31.79, 91.06), rel=0.1)


def test_appendix_d_counts_the_skip_binary_and_batch_norm_too():
    ours = [cost.ratios(with_skip(arch, "binary")) for arch in (D, E)]
    assert [digits(r.speedup, 3) for r in ours] == [21.9, 22.0]
    assert [digits(r.memory_saving, 3) for r in ours] == [14.3, 14.8]
    # The printed figures.
    assert [r.speedup for r in ours] == pytest.approx([20.85, 21.15], rel=0.1)
    assert [r.memory_saving for r in ours] == pytest.approx([13.91, 14.51], rel=0.1)


def test_a_float_skip_is_not_what_the_paper_counts():
    assert digits(cost.ratios(with_skip(A, "float"), WITHOUT).speedup, 3) == 21.7
    assert digits(cost.ratios(with_skip(D, "float")).speedup, 3) == 9.25
    assert digits(cost.ratios(with_skip(D, "float")).memory_saving, 3) == 6.28


def test_own_twin_is_the_default_reference():
    assert cost.ratios(A) == cost.ratios(A, ZEROISED)
    assert cost.ratios(A).speedup < cost.ratios(A, WITHOUT).speedup


# One cell by hand: 8x8 images, C = 2, so 6 channels leave the stem and 4 * 2 = 8 the first cell.
SMALL = cost.Architecture(
    genotype.Genotype(
        normal=(
            ("bin_conv_3x3", 0), ("bin_dil_conv_5x5", 1), ("none", 0), ("max_pool_3x3", 1),
            ("avg_pool_3x3", 2), ("none", 3), ("bin_dil_conv_3x3", 4), ("bin_conv_5x5", 2),
        ),
        reduce=(
            ("bin_conv_5x5", 0), ("bin_conv_3x3", 1), ("bin_dil_conv_3x3", 2), ("max_pool_3x3", 0),
            ("none", 3), ("none", 3), ("none", 4), ("none", 4),
        ),
    ),
    num_cells=5, channels=2, image_size=8, num_classes=7, form="cifar",
)  # fmt: skip

BY_HAND = {
    # name: (output shape, binary MACs, float MACs, binary params, float params, of them BN)
    "stem": ((8, 8, 6), 0, 64 * 9 * 3 * 6, 0, 9 * 3 * 6 + 2 * 3, 2 * 3),
    # A normal cell, 64 pixels.
    "cells.0.preprocess0": ((8, 8, 2), 64 * 6 * 2, 0, 6 * 2, 2 * 6, 2 * 6),
    "cells.0.preprocess1": ((8, 8, 2), 64 * 6 * 2, 0, 6 * 2, 2 * 6, 2 * 6),
    "cells.0.ops.0": ((8, 8, 2), 64 * 9 * 2 * 2, 0, 9 * 2 * 2, 2 * 2, 2 * 2),
    "cells.0.ops.1": ((8, 8, 2), 64 * 25 * 2 * 2, 0, 25 * 2 * 2, 2 * 2, 2 * 2),
    "cells.0.ops.2": ((8, 8, 2), 0, 0, 0, 0, 0),
    "cells.0.ops.3": ((8, 8, 2), 0, 0, 0, 0, 0),
    "cells.0.ops.4": ((8, 8, 2), 0, 0, 0, 0, 0),
    "cells.0.ops.5": ((8, 8, 2), 0, 0, 0, 0, 0),
    "cells.0.ops.6": ((8, 8, 2), 64 * 9 * 2 * 2, 0, 9 * 2 * 2, 2 * 2, 2 * 2),
    "cells.0.ops.7": ((8, 8, 2), 64 * 25 * 2 * 2, 0, 25 * 2 * 2, 2 * 2, 2 * 2),
    # A reduction cell: twice the width, 16 pixels; its inputs are still of the old size.
    "cells.1.preprocess0": ((8, 8, 4), 64 * 6 * 4, 0, 6 * 4, 2 * 6, 2 * 6),
    "cells.1.preprocess1": ((8, 8, 4), 64 * 8 * 4, 0, 8 * 4, 2 * 8, 2 * 8),
    "cells.1.skip": ((4, 4, 16), 16 * 4 * 8 * 16, 0, 4 * 8 * 16, 2 * 8, 2 * 8),
    "cells.1.skip_bn": ((4, 4, 16), 0, 0, 0, 2 * 16, 2 * 16),
    "cells.1.ops.0": ((4, 4, 4), 16 * 25 * 4 * 4, 0, 25 * 4 * 4, 2 * 4, 2 * 4),
    "cells.1.ops.1": ((4, 4, 4), 16 * 9 * 4 * 4, 0, 9 * 4 * 4, 2 * 4, 2 * 4),
    "cells.1.ops.2": ((4, 4, 4), 16 * 9 * 4 * 4, 0, 9 * 4 * 4, 2 * 4, 2 * 4),
    "cells.1.ops.3": ((4, 4, 4), 0, 0, 0, 0, 0),
    "cells.1.ops.4": ((4, 4, 4), 0, 0, 0, 0, 0),
    "cells.1.ops.5": ((4, 4, 4), 0, 0, 0, 0, 0),
    "cells.1.ops.6": ((4, 4, 4), 0, 0, 0, 0, 0),
    "cells.1.ops.7": ((4, 4, 4), 0, 0, 0, 0, 0),
    # The cell after it brings its first input, of cell 0, down by a strided 3x3 convolution, whose BN has no parameters.
    "cells.2.preprocess0": ((4, 4, 4), 16 * 9 * 8 * 4, 0, 9 * 8 * 4, 0, 0),
    "cells.2.preprocess1": ((4, 4, 4), 16 * 16 * 4, 0, 16 * 4, 2 * 16, 2 * 16),
    # Cells 2 to 4 continue; the last has 4 * 8 channels.
    "classifier": ((1, 1, 7), 0, 32 * 7, 0, 32 * 7 + 7, 0),
}


def test_a_small_network_by_hand():
    rows = named_rows(SMALL)
    for name, expected in BY_HAND.items():
        row = rows[name]
        counted = (row.out_shape, row.binary_macs, row.float_macs, row.binary_params, row.float_params, row.bn_params)
        assert counted == expected, name
    names = [row.name for row in cost.layers(SMALL)]
    assert names[: len(BY_HAND) - 1] == list(BY_HAND)[:-1], "rows are in module order and none is missing"
    assert names[-1] == "classifier"
    kinds = ["stem conv", "preprocess", "preprocess", "bin_conv_3x3", "bin_dil_conv_5x5", "none", "max_pool_3x3"]
    assert [row.kind for row in cost.layers(SMALL)[:7]] == kinds


def test_flops_and_bits_of_a_row():
    row = named_rows(SMALL)["cells.0.ops.0"]
    assert row.flops == 64 * 9 * 2 * 2 / 64
    assert row.memory_bits == 9 * 2 * 2 + 32 * (2 * 2)
    assert row.memory_bits_without_bn == 9 * 2 * 2
    stem = named_rows(SMALL)["stem"]
    assert stem.flops == 64 * 9 * 3 * 6
    assert (stem.memory_bits, stem.memory_bits_without_bn) == (32 * (9 * 3 * 6 + 2 * 3), 32 * 9 * 3 * 6)
    assert stem.params == 9 * 3 * 6 + 2 * 3


def test_total_sums_every_count():
    rows = cost.layers(SMALL)
    sums = cost.total(rows)
    for name in ("binary_macs", "float_macs", "binary_params", "float_params", "bn_params", "flops", "memory_bits", "params"):
        assert getattr(sums, name) == sum(getattr(row, name) for row in rows) > 0, name


def test_imagenet_stem_by_hand():
    rows = named_rows(cost.Architecture(WITHOUT, 6, 4, 64, 10, "imagenet"))
    shapes_and_counts = {
        "stem0.conv0": ((32, 32, 2), 32 * 32 * 9 * 3 * 2, 9 * 3 * 2),
        "stem0.bn0": ((32, 32, 2), 0, 2 * 2),
        "stem0.conv1": ((16, 16, 4), 16 * 16 * 9 * 2 * 4, 9 * 2 * 4),
        "stem0.bn1": ((16, 16, 4), 0, 2 * 4),
        "stem1.conv": ((8, 8, 4), 8 * 8 * 9 * 4 * 4, 9 * 4 * 4),
        "stem1.bn": ((8, 8, 4), 0, 2 * 4),
    }
    assert {n: (rows[n].out_shape, rows[n].float_macs, rows[n].float_params) for n in shapes_and_counts} == shapes_and_counts
    assert [rows[n].bn_params for n in shapes_and_counts] == [0, 4, 0, 8, 0, 8]
    # Cell 0 reads stem0 at stride 4 and brings it down to stem1's; here its BN has scale and shift.
    first = rows["cells.0.preprocess0"]
    assert (first.out_shape, first.binary_macs, first.binary_params) == ((8, 8, 4), 8 * 8 * 9 * 4 * 4, 9 * 4 * 4)
    assert first.bn_params == 2 * 4
    assert rows["cells.0.preprocess1"].binary_params == 4 * 4


@pytest.mark.parametrize(
    ("how", "binary_macs", "float_macs", "binary_params", "float_params", "norms"),
    [
        ("float", 0, 16 * 512, 0, 512 + 16 + 2 * 8, 0),
        ("binary_weight", 0, 16 * 512, 512, 16 + 2 * 8, 0),
        ("binary", 16 * 512, 0, 512, 2 * 8, 0),
        ("binary_bn", 16 * 512, 0, 512, 2 * 8, 2 * 16),
    ],
)
def test_reduction_skips(how, binary_macs, float_macs, binary_params, float_params, norms):
    """A 2x2 convolution from 8 to 16 channels, so 4 * 8 * 16 = 512 weights, at 4x4 positions."""
    rows = named_rows(with_skip(SMALL, how))
    skip = rows["cells.1.skip"]
    assert (skip.binary_macs, skip.float_macs) == (binary_macs, float_macs)
    assert (skip.binary_params, skip.float_params, skip.bn_params) == (binary_params, float_params, 2 * 8)
    assert (rows["cells.1.skip_bn"].bn_params if "cells.1.skip_bn" in rows else 0) == norms


def test_without_skips_their_rows_are_gone_and_nothing_else():
    rows = cost.layers(dataclasses.replace(SMALL, skip=False))
    assert rows == tuple(row for row in cost.layers(SMALL) if ".skip" not in row.name)
    assert len(rows) == len(cost.layers(SMALL)) - 4


@pytest.mark.parametrize(
    ("num_cells", "skips"),
    [(1, []), (2, [1]), (3, [1, 2]), (5, [1, 3]), (12, [4, 8]), (20, [6, 13])],
)
def test_reductions_at_a_third_and_two_thirds(num_cells, skips):
    rows = cost.layers(dataclasses.replace(SMALL, num_cells=num_cells))
    assert [row.name for row in rows if row.kind == "skip"] == [f"cells.{index}.skip" for index in skips]


def head(arch):
    return dataclasses.replace(arch, rules=dataclasses.replace(arch.rules, float_head=True))


def changed_by_head(arch):
    """Name and new row of each layer that `float_head` changes."""
    pairs = zip(cost.layers(arch), cost.layers(head(arch)), strict=True)
    return {before.name: after for before, after in pairs if before != after}


@pytest.mark.parametrize(("cell", "left"), [(ZEROISED, ["ops.1", "ops.2"]), (WITHOUT, ["ops.6", "ops.7"])])
def test_float_head_leaves_as_many_last_convolutions_float_as_there_are_skips(cell, left):
    arch = cost.Architecture(cell, 5, 4, 16, 10, "cifar", rules=MEANT)
    changed = changed_by_head(arch)
    assert list(changed) == [f"cells.4.{name}" for name in left]
    for row in changed.values():
        assert (row.binary_macs, row.float_macs) == (0, 4 * 4 * 9 * 16 * 16)
        assert (row.binary_params, row.float_params, row.bn_params) == (0, 9 * 16 * 16 + 2 * 16, 2 * 16)
    assert cost.total(cost.layers(head(arch))).params == cost.total(cost.layers(arch)).params


def test_float_head_leaves_the_imagenet_stem_as_it_is():
    changed = changed_by_head(cost.Architecture(WITHOUT, 6, 4, 64, 7, "imagenet", rules=MEANT))
    assert list(changed) == ["cells.5.ops.6", "cells.5.ops.7"]


def test_float_head_walks_over_skips_and_leaves_them_as_they_are():
    arch = cost.Architecture(ZEROISED, 3, 4, 16, 10, "cifar")
    assert [row.name for row in cost.layers(arch) if row.binary_macs][-2:] == ["cells.2.preprocess1", "cells.2.skip"]
    assert list(changed_by_head(arch)) == ["cells.2.preprocess1"]


def test_float_head_without_skips_leaves_no_convolution_float():
    assert changed_by_head(dataclasses.replace(SMALL, skip=False)) == {}


def test_float_twin_has_the_same_layers_all_float():
    ours, twin = cost.layers(SMALL), cost.float_twin(SMALL)
    assert [row.name for row in twin] == [row.name for row in ours]
    assert [row.out_shape for row in twin] == [row.out_shape for row in ours]
    sums, twins = cost.total(ours), cost.total(twin)
    assert (twins.binary_macs, twins.binary_params) == (0, 0)
    assert twins.flops == sums.binary_macs + sums.float_macs
    assert (twins.params, twins.bn_params) == (sums.params, sums.bn_params)
    assert cost.float_twin(head(SMALL)) == twin


def flops_of(arch, **changes):
    return cost.total(cost.layers(dataclasses.replace(arch, **changes))).flops


@pytest.mark.parametrize(
    ("arch", "budget", "step"),
    [(SMALL, 1e5, 1), (with_skip(A, "binary"), 0.36e8, 1), (with_skip(D, "binary"), 1.48e8, 2)],
)
def test_fit_budget_finds_the_widest_that_meets_it(arch, budget, step):
    fitted = cost.fit_budget(arch, budget)
    assert fitted == dataclasses.replace(arch, channels=fitted.channels)
    assert flops_of(fitted) <= budget < flops_of(fitted, channels=fitted.channels + step)


def test_fit_budget_may_use_the_budget_up():
    budget = flops_of(SMALL, channels=13)
    assert cost.fit_budget(SMALL, budget).channels == 13
    assert cost.fit_budget(SMALL, budget - 1).channels == 12


def test_fit_budget_finds_the_width_of_the_paper():
    """Table 7 prints 1.48e8 FLOPs for D, which Table 5 gives 12 cells of 64 channels."""
    assert cost.fit_budget(with_skip(D, "binary"), 1.48e8).channels == 64


def test_fit_budget_keeps_within_bounds():
    assert cost.fit_budget(SMALL, 1e9, max_channels=9).channels == 9
    assert cost.fit_budget(SMALL, 1e9, min_channels=9, max_channels=9).channels == 9
    with pytest.raises(UserError, match=r"^budget of .* .* write at least \d+"):
        cost.fit_budget(SMALL, flops_of(SMALL, channels=9) - 1, min_channels=9)


def test_fit_budget_over_cells_is_the_best_of_all_of_them():
    budget, cells = 2e5, range(3, 9)
    fitted = cost.fit_budget(SMALL, budget, cells=cells)
    reached = {(n, c): flops_of(SMALL, num_cells=n, channels=c) for n in cells for c in range(1, 40)}
    assert flops_of(fitted) == max(flops for flops in reached.values() if flops <= budget)
    assert reached[fitted.num_cells, fitted.channels] == flops_of(fitted)
    assert flops_of(fitted) > flops_of(cost.fit_budget(SMALL, budget)), "5 cells alone come less near"


def test_fit_budget_drops_numbers_of_cells_that_are_too_many():
    budget = flops_of(SMALL, num_cells=3, channels=1)
    assert cost.fit_budget(SMALL, budget, cells=(20, 3)).num_cells == 3


def test_an_impossible_budget_says_what_to_write():
    with pytest.raises(UserError) as error:
        cost.fit_budget(SMALL, 100)
    message = str(error.value)
    assert "\n" not in message
    written = int(message.split("write at least ")[1].split(",")[0])
    assert cost.fit_budget(SMALL, written).channels == 1
    with pytest.raises(UserError):
        cost.fit_budget(SMALL, written - 1)


@pytest.mark.parametrize("budget", [0, -1, float("nan"), float("inf")])
def test_a_budget_is_a_positive_number(budget):
    with pytest.raises(UserError, match="budget must be a positive number"):
        cost.fit_budget(SMALL, budget)


def test_fit_budget_refuses_an_empty_range():
    with pytest.raises(UserError, match="max_channels must be at least 4, the smallest width asked for, got 3"):
        cost.fit_budget(SMALL, 1e6, min_channels=4, max_channels=3)


def test_fit_budget_of_the_imagenet_form_has_even_widths():
    arch = cost.Architecture(WITHOUT, 6, 4, 32, 7, "imagenet")
    for channels in (2, 4, 6, 14):
        budget = flops_of(arch, channels=channels)
        assert cost.fit_budget(arch, budget).channels == channels
        assert cost.fit_budget(arch, flops_of(arch, channels=channels + 2) - 1).channels == channels
    assert cost.fit_budget(arch, 1e9, min_channels=5, max_channels=7).channels == 6


def test_table_shows_each_layer_the_totals_and_the_formulas():
    text = cost.table(cost.layers(SMALL))
    lines = text.splitlines()
    sums = cost.total(cost.layers(SMALL))
    assert lines[0].split()[:3] == ["layer", "kind", "output"]
    skip = next(line for line in lines if line.startswith("cells.1.skip "))
    assert skip.split() == ["cells.1.skip", "skip", "4x4x16", "8,192", "0", "128", "512", "16", "16"]
    totals = next(line for line in lines if line.startswith("total")).split()
    assert totals[1:3] == [f"{sums.binary_macs:,}", f"{sums.float_macs:,}"]
    flops = f"{sums.float_macs:,} + {sums.binary_macs:,} / 64 = {sums.flops:,.0f}"
    assert f"FLOPs = float MACs + binary MACs / 64 = {flops}" in lines
    assert any(line.startswith("memory = 32 bits x float params + 1 bit x binary params") for line in lines)
    assert f"{sums.memory_bits:,} bits ({sums.memory_bits_without_bn:,} without batch norm)" in text
    assert "Counted from shapes, not measured." in text
    shown = [row.name for row in cost.layers(SMALL) if row.kind != "none"]
    assert [line.split()[0] for line in lines[1 : len(shown) + 1]] == shown


def test_table_columns_line_up():
    body = cost.table(cost.layers(SMALL)).split("\n\n")[0].splitlines()
    assert len({len(line) for line in body}) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"form": "mnist"}, "form must be one of cifar, imagenet, got 'mnist'"),
        ({"num_cells": 0}, "num_cells must be at least 1"),
        ({"channels": 0}, "channels must be at least 1"),
        ({"form": "imagenet", "channels": 1}, "channels must be even in the imagenet form, whose stem halves them, got 1"),
        ({"image_size": 0}, "image_size must be at least 1"),
        ({"num_classes": 0}, "num_classes must be at least 1"),
        ({"rules": dataclasses.replace(PAPER, reduction_skip="none")}, "reduction_skip must be one of float, binary_weight"),
    ],
)
def test_what_cannot_be_built_is_a_user_error(changes, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(SMALL, **changes)


def test_an_odd_image_cannot_be_halved_by_a_skip():
    with pytest.raises(UserError, match=r"image_size: cells\.3 halves an image of odd side 5"):
        cost.layers(dataclasses.replace(SMALL, image_size=10))
    rows = named_rows(dataclasses.replace(SMALL, image_size=10, skip=False))
    assert rows["cells.4.preprocess0"].out_shape == rows["cells.4.preprocess1"].out_shape == (3, 3, 8)


def test_layer_types_of_other_papers_are_not_costed():
    with pytest.raises(UserError, match="'sep_conv_3x3'"):
        cost.layers(dataclasses.replace(SMALL, genotype=genotype.load("darts_v2")))
