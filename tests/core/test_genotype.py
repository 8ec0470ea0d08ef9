"""Genotypes: what is refused, the named cells, and derivation from alphas."""

import json
import re

import numpy as np
import pytest

from bnas_jax.core import alphas as alphas_lib
from bnas_jax.core import genotype as genotype_lib
from bnas_jax.core import genotypes
from bnas_jax.core.derivation import derive
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import (
    EDGES,
    FIXED_REDUCTION,
    TABLE_3,
    ZEROISE,
    Genotype,
    edges,
)

CELL = (("bin_conv_3x3", 0), ("none", 1), ("max_pool_3x3", 2), ("bin_conv_5x5", 1)) + (
    ("avg_pool_3x3", 3),
    ("none", 0),
) * 2


def pairs(cell):
    """The (layer type, input) pairs of a cell, node by node."""
    return tuple((edge.layer_type, edge.source) for edge in edges(cell))


def message_of(error) -> str:
    """The message of a UserError, which must be one line."""
    assert "\n" not in str(error.value)
    return str(error.value)


def changed(position, pair):
    return (*CELL[:position], pair, *CELL[position + 1 :])


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (changed(2, (3, 0)), "the layer type of normal pair 2 must be a name, got 3"),
        (
            changed(0, ("none", 2)),
            "normal pair 0 feeds node 2: its input must be 0 to 1, got 2",
        ),
        (
            changed(7, ("none", 5)),
            "normal pair 7 feeds node 5: its input must be 0 to 4, got 5",
        ),
        (
            changed(4, ("none", -1)),
            "normal pair 4 feeds node 4: its input must be 0 to 3, got -1",
        ),
        (changed(4, ("none", "1")), "input must be 0 to 3, got '1'"),
        (changed(4, ("none", True)), "input must be 0 to 3, got True"),
        (changed(4, ("none", 1.0)), "input must be 0 to 3, got 1.0"),
        (
            changed(3, ("none",)),
            "normal pair 3 must be [layer type, input], got ('none',)",
        ),
        (changed(3, "none"), "normal pair 3 must be [layer type, input], got 'none'"),
        (
            CELL[:-1],
            "the normal cell needs 8 [layer type, input] pairs, two a node, 14 for all "
            "edges, or a list",
        ),
        (CELL * 2, "a list of pairs for each of its 4 nodes; got 16"),
        (7, "a list of pairs for each of its 4 nodes; got 7"),
        (FIXED_REDUCTION, "the normal cell needs 8"),
    ],
)
def test_what_is_no_cell_is_refused(cell, expected):
    with pytest.raises(UserError, match=re.escape(expected)) as caught:
        Genotype(normal=cell, reduce=CELL)
    message_of(caught)
    if cell != FIXED_REDUCTION:
        with pytest.raises(
            UserError, match=re.escape(expected.replace("normal", "reduce"))
        ):
            Genotype(normal=CELL, reduce=cell)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "not valid JSON"),
        ('{"normal":\n\n oh', "not valid JSON"),
        ("", "not valid JSON"),
        ("[]", 'expected a JSON object with the keys "normal" and "reduce"'),
        ('{"normal": []}', "it lacks reduce; a genotype has normal and reduce"),
        ('{"normal": null, "reduce": []}', "the normal cell needs 8"),
        ('{"normal": %s, "reduce": []}' % ("9" * 5000), "a number has too many digits"),
    ],
)
def test_texts_that_hold_no_genotype(text, expected, tmp_path):
    with pytest.raises(UserError, match=expected) as caught:
        genotypes.from_text(text)
    file = tmp_path / "g.json"
    file.write_text(text)
    with pytest.raises(UserError) as from_file:
        genotypes.load(str(file))
    named = message_of(caught).replace("genotype: ", f"genotype: {file}: ", 1)
    assert message_of(from_file) == named


def test_messages_are_short_however_long_or_deep_a_value_is():
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    for value in ("x" * 5000, 10**4000, {"x" * 5000: 1}, deep):
        cells = {"normal": CELL, "reduce": CELL}
        for given in (
            {"normal": value, "reduce": CELL},
            {"normal": changed(0, value), "reduce": CELL},
            {"normal": changed(0, ("none", value)), "reduce": CELL},
            {**cells, "normal_concat": value},
            {**cells, "x" * 5000: value},
        ):
            with pytest.raises(UserError) as caught:
                genotypes.from_dict(given)
            assert len(message_of(caught)) < 300


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(
        UserError,
        match="'nowhere' is neither a file nor a named cell; named: darts_v1, ",
    ) as caught:
        genotypes.load("nowhere")
    message_of(caught)
    (tmp_path / "g.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot read") as caught:
        genotypes.load(str(tmp_path / "g.json"))
    message_of(caught)


def test_what_is_no_name_path_or_text_is_refused():
    cell = genotypes.load("latest_cell")
    for wrong in (None, 3, cell, cell.to_dict()):
        with pytest.raises(UserError, match="takes a name, a path or a text") as caught:
            genotypes.load(wrong)
        message_of(caught)
    with pytest.raises(UserError, match="not valid JSON") as caught:
        genotypes.load('{"normal":\n 1')
    message_of(caught)


def test_any_name_of_a_layer_type_makes_a_genotype():
    """Which of them have a layer is decided where a network is built: `layers.LAYERS`
    grows.
    """
    cell = changed(2, ("a_layer_of_mine", 0))
    genotype = Genotype(normal=cell, reduce=CELL)
    assert genotypes.from_text(genotype.to_json()).normal[1] == (
        ("a_layer_of_mine", 0),
        ("bin_conv_5x5", 1),
    )


def test_a_genotype_is_frozen_and_plain():
    genotype = Genotype(
        normal=[list(pair) for pair in CELL], reduce=changed(0, ("none", np.int64(1)))
    )
    assert pairs(genotype.normal) == CELL
    assert type(pairs(genotype.reduce)[0][1]) is int
    assert (genotype.cell(False), genotype.cell(True)) == (
        genotype.normal,
        genotype.reduce,
    )
    assert hash(genotype) == hash(Genotype(genotype.normal, genotype.reduce))
    with pytest.raises(AttributeError):
        genotype.normal = ()


ALL_EDGES = [["bin_conv_3x3", source] for source, _ in EDGES]


def test_a_cell_of_all_edges_is_read_node_by_node():
    """Such as SNAS derives, whose node i has up to i + 2 edges."""
    genotype = Genotype(normal=ALL_EDGES, reduce=CELL)
    assert [len(node) for node in genotype.normal] == [2, 3, 4, 5]
    assert [(edge.source, edge.node) for edge in edges(genotype.normal)] == list(EDGES)
    written = json.loads(genotype.to_json())
    assert written["normal"] == [
        ALL_EDGES[:2],
        ALL_EDGES[2:5],
        ALL_EDGES[5:9],
        ALL_EDGES[9:],
    ]
    assert written["reduce"] == [
        list(pair) for pair in CELL
    ]  # two a node stay eight pairs
    assert genotypes.from_dict(written) == genotype


def test_nodes_of_any_number_of_edges():
    """One, and an input that a node takes twice, as GDAS may."""
    nodes = [
        [["none", 1]],
        [["none", 2], ["bin_conv_3x3", 2]],
        [["none", 3]] * 4,
        [["none", 4]],
    ]
    genotype = Genotype(normal=nodes, reduce=nodes)
    assert [len(node) for node in genotype.normal] == [1, 2, 4, 1]
    assert edges(genotype.normal)[2] == ("bin_conv_3x3", 2, 3)
    assert genotypes.from_text(genotype.to_json()) == genotype


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        (
            [[], *[[["none", 0]]] * 3],
            "node 2 of the normal cell adds up 1 to 2 [layer type, input] pairs; got 0"
            '; a node of zeros has ["none", 0]',
        ),
        (
            [*[[["none", 0]]] * 3, [["none", 0]] * 6],
            "node 5 of the normal cell adds up 1 to 5 [layer type, input] pairs; got 6",
        ),
        (
            [*[[["none", 0]]] * 3, [["none", 5]]],
            "normal pair 3 feeds node 5: its input must be 0 to 4, got 5",
        ),
        (
            [*[[["none", 0]]] * 3, [7]],
            "normal pair 3 must be [layer type, input], got 7",
        ),
        ([[["none", 0]]] * 3, "a list of pairs for each of its 4 nodes; got 3"),
        ([["none", 0]] * 4, "a list of pairs for each of its 4 nodes; got 4"),
    ],
)
def test_nodes_that_are_none(nodes, expected):
    with pytest.raises(UserError, match=re.escape(expected)) as caught:
        Genotype(normal=nodes, reduce=CELL)
    message_of(caught)


def test_what_needs_eight_pairs_says_so():
    genotype_lib.check_two_a_node(Genotype(CELL, CELL), "these")
    with pytest.raises(
        UserError,
        match=(
            "these need a reduce cell of eight pairs, two a node; this one has 14, 2, "
            "3, 4, 5"
        ),
    ) as caught:
        genotype_lib.check_two_a_node(Genotype(CELL, ALL_EDGES), "these")
    message_of(caught)
    with pytest.raises(UserError, match="two a node; 'gdas_fixed' has none") as caught:
        genotype_lib.check_two_a_node(Genotype(CELL, FIXED_REDUCTION), "these")
    message_of(caught)


@pytest.mark.parametrize("name", genotypes.named())
def test_json_and_back(name, tmp_path):
    genotype = genotypes.load(name)
    assert genotypes.from_text(genotype.to_json()) == genotype
    assert genotypes.from_dict(json.loads(json.dumps(genotype.to_dict()))) == genotype
    (tmp_path / "genotype.json").write_text(genotype.to_json())
    # The file, as a text and as a path; the folder; and what stands in the file.
    for given in (
        str(tmp_path / "genotype.json"),
        tmp_path / "genotype.json",
        tmp_path,
        genotype.to_json(),
    ):
        assert genotypes.load(given) == genotype


ABBREVIATIONS = {
    "s3": "sep_conv_3x3", "s5": "sep_conv_5x5", "sk": "skip_connect",
    "d3": "dil_conv_3x3", "d5": "dil_conv_5x5", "no": "none",
    "mp": "max_pool_3x3", "ap": "avg_pool_3x3",
    "c3": "bin_conv_3x3", "dc3": "bin_dil_conv_3x3",
}  # fmt: skip
# As their authors print them.
PRINTED = {
    "darts_v1": (
        "s3,1 s3,0|sk,0 s3,1|sk,0 s3,1|s3,0 sk,2",
        "mp,0 mp,1|sk,2 mp,0|mp,0 sk,2|sk,2 ap,0",
    ),
    "darts_v2": (
        "s3,0 s3,1|s3,0 s3,1|s3,1 sk,0|sk,0 d3,2",
        "mp,0 mp,1|sk,2 mp,1|mp,0 sk,2|sk,2 mp,1",
    ),
    "snas_mild": (
        "s3,0 s3,1|sk,0 d3,1|sk,0 sk,1|sk,0 s3,1",
        "mp,0 mp,1|mp,1 sk,2|mp,1 sk,2|mp,0 d5,2",
    ),
    "snas_moderate": (
        "d5,0 sk,1|s3,0 sk,1|sk,0 sk,1|s3,0 d5,1",
        "mp,0 mp,1|s5,0 d5,1|s5,0 s5,1|s5,0 s5,1",
    ),
    "snas_aggressive": (
        "s5,0 sk,1|sk,0 sk,1|d5,1 sk,0|sk,0 d5,1",
        "s5,0 no,1|s5,0 no,1|no,1 no,0|no,1 no,0",
    ),
    "gdas_v1": (
        "sk,0 sk,1|sk,0 s5,2|s3,3 sk,0|s5,4 s3,3",
        "s5,0 s3,1|s5,2 s5,1|d5,2 s3,1|s5,0 s5,1",
    ),
    "gdas_f1": ("sk,0 sk,1|sk,0 s3,2|sk,0 s3,2|sk,0 s3,2", FIXED_REDUCTION),
    "latest_cell_zeroise": (
        "no,1 dc3,0|c3,1 no,2|no,2 no,3|no,3 no,4",
        "mp,0 no,1|mp,0 no,2|no,3 no,2|no,3 no,4",
    ),
    "latest_cell": (
        "c3,1 dc3,0|c3,1 c3,2|c3,2 dc3,1|dc3,1 c3,0",
        "mp,0 mp,1|mp,0 c3,2|mp,0 dc3,3|mp,0 dc3,4",
    ),
}


def spelled_out(cell):
    if cell == FIXED_REDUCTION:
        return cell
    pairs = (pair.split(",") for pair in re.split(r"[ |]", cell))
    return tuple((ABBREVIATIONS[name], int(source)) for name, source in pairs)


def test_the_named_cells_are_those_printed():
    assert set(genotypes.named()) == set(PRINTED)
    for name, (normal, reduce) in PRINTED.items():
        assert genotypes.load(name) == Genotype(
            spelled_out(normal), spelled_out(reduce)
        ), name


@pytest.mark.parametrize(
    ("name", "share"),
    [("darts_v2", 0.625), ("snas_mild", 0.375), ("gdas_f1", 0.375), ("gdas_v1", 0.5)],
)
def test_separable_share_of_normal_cells(name, share):
    """Shares of Figure 2, by which one tells which of the published cells the paper
    means.
    """
    assert (
        np.mean(
            [
                layer.startswith("sep_conv")
                for layer, _ in pairs(genotypes.load(name).normal)
            ]
        )
        == share
    )


def test_the_hand_made_reduction_has_no_edges():
    assert genotypes.load("gdas_f1").cell(True) == FIXED_REDUCTION
    assert edges(FIXED_REDUCTION) == ()


def test_the_cell_that_stands_for_another_without_zeroise():
    assert genotypes.without_zeroise("latest_cell_zeroise") == "latest_cell"
    assert genotypes.without_zeroise("latest_cell") is None
    assert genotypes.without_zeroise("some/file.json") is None


def test_edges_go_node_by_node():
    assert EDGES[:5] == ((0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
    assert len(EDGES) == 14 == len(set(EDGES))
    assert all(start < end for start, end in EDGES)


def test_derivations_of_the_released_code(reference):
    pairs = np.load(reference / "derivation_alphas.npz")["alphas"]
    expected = json.loads((reference / "derivation_genotypes.json").read_text())
    assert len(pairs) == len(expected) == 50
    for (normal, reduce), derived in zip(pairs, expected, strict=True):
        weights = alphas_lib.relax({"normal": normal, "reduce": reduce})
        cells = {name: derive(value) for name, value in weights.items()}
        assert genotype_lib.of_cells(cells) == genotypes.from_dict(derived)


def probabilities(seed, types=TABLE_3):
    return np.random.default_rng(seed).dirichlet(np.ones(len(types)), len(EDGES))


def count(cell, layer=ZEROISE):
    return sum(name == layer for name, _ in pairs(cell))


def hand_made():
    """Zeroise leads on the edges 0->2 and 2->3, a convolution on the others, of which
    1->3 is the strongest into node 3.
    """
    weights = np.full((14, 7), 0.1)
    weights[:, TABLE_3.index("bin_conv_3x3")] = 0.2
    weights[EDGES.index((0, 2)), 0] = 0.5
    weights[EDGES.index((2, 3)), 0] = 0.8
    weights[EDGES.index((1, 3)), TABLE_3.index("max_pool_3x3")] = 0.4
    return weights


def test_gamma_divides_the_probability_of_zeroise():
    first = lambda gamma: pairs(derive(hand_made(), gamma=gamma))[:4]
    assert first(1) == (
        ("none", 0),
        ("bin_conv_3x3", 1),
        ("none", 2),
        ("max_pool_3x3", 1),
    )
    # 0.8 / 2.1 is no longer above 0.4, but still above the best of the convolutions.
    assert first(2.1) == (
        ("none", 0),
        ("bin_conv_3x3", 1),
        ("max_pool_3x3", 1),
        ("none", 2),
    )
    # 0.5 / 2.6 falls below the 0.2 of the convolution on the same edge; 0.8 / 2.6 does
    # not.
    assert first(2.6) == (
        ("bin_conv_3x3", 0),
        ("bin_conv_3x3", 1),
        ("max_pool_3x3", 1),
        ("none", 2),
    )
    # 0.8 / 4.1 does, too, and of equally strong edges the first is taken.
    assert first(4.1) == (
        ("bin_conv_3x3", 0),
        ("bin_conv_3x3", 1),
        ("max_pool_3x3", 1),
        ("bin_conv_3x3", 0),
    )
    # 0.1 / 0.4 rises above the 0.2 of the convolutions.
    assert first(0.4) == (("none", 0), ("none", 1), ("none", 2), ("max_pool_3x3", 1))


def test_dividing_the_first_edge_by_gamma_changes_no_choice():
    """What the released code does in place of Eq. (4): at most the pairs of the first
    node swap.
    """
    for seed in range(20):
        divided = probabilities(seed)
        divided[0] /= 3
        ours, theirs = derive(probabilities(seed)), derive(divided)
        assert sorted(ours[0]) == sorted(theirs[0]) and ours[1:] == theirs[1:]


def test_derivation_leaves_its_input_alone():
    weights = hand_made()
    derive(weights, gamma=3)
    derive(weights, keep_zeroise=False)
    assert np.array_equal(weights, hand_made())


def test_larger_gamma_never_picks_more_zeroise():
    gammas = [1e-9, 0.3, 0.7, 1, 1.5, 2, 3, 5, 10, 100]
    counts = np.array(
        [
            [count(derive(probabilities(seed), gamma=gamma)) for gamma in gammas]
            for seed in range(40)
        ]
    )
    assert np.all(np.diff(counts) <= 0)
    assert np.all(counts[:, 0] == 8)
    assert np.all(counts[:, -1] == 0)
    assert 0 < counts[:, gammas.index(1)].mean() < 8


@pytest.mark.parametrize("gamma", [0, -1, -0.5, float("nan")])
def test_gamma_must_be_positive(gamma):
    with pytest.raises(UserError, match="gamma must be greater than 0, got") as caught:
        derive(probabilities(0), gamma=gamma)
    message_of(caught)


def test_zeroise_can_be_left_out():
    for seed in range(10):
        weights = probabilities(seed)
        cell = derive(weights, keep_zeroise=False)
        assert count(cell) == 0
        weights[:, 0] = 0
        assert cell == derive(weights), "the rest is ranked as if it had no weight"
    # A softmax that has saturated leaves the other types exactly 0.
    assert count(derive(np.eye(7)[[0] * 14], keep_zeroise=False)) == 0


@pytest.mark.parametrize(
    "layer_types",
    [
        tuple(t for t in TABLE_3 if "dil" not in t),
        tuple(t for t in TABLE_3 if t != ZEROISE),
        ("bin_conv_5x5", ZEROISE),
    ],
    ids=["no dilated", "no zeroise", "zeroise last"],
)
def test_reduced_sets_of_layer_types(layer_types):
    weights = probabilities(3, layer_types)
    weights[0] = np.eye(len(layer_types))[-1]
    cell = derive(weights, gamma=1.5, layer_types=layer_types)
    assert {name for name, _ in pairs(cell)} <= set(layer_types)
    assert cell[0][0] == (layer_types[-1], 0)
    full = np.zeros((14, 7))
    full[:, [TABLE_3.index(name) for name in layer_types]] = weights
    assert cell == derive(full, gamma=1.5), "as if the types left out had no weight"


def test_alphas_of_another_shape_are_refused():
    with pytest.raises(
        UserError, match=r"alphas must have the shape \(14, 5\), got \(14, 7\)"
    ) as caught:
        derive(probabilities(0), layer_types=TABLE_3[:5])
    message_of(caught)
