"""The layered plan of a cell: nothing on top of anything, no line across a label, every
edge there once.
"""

import itertools

import numpy as np
import pytest

from bnas_jax.core import genotype as genotype_lib
from bnas_jax.core import genotypes
from bnas_jax.core.genotype import EDGES, Edge
from bnas_jax.report.columns import columns
from bnas_jax.report.heights import BOX_HEIGHT
from bnas_jax.report.layout import Layout, block, layout, text_width
from bnas_jax.report.ordering import crossings, with_few_crossings

ALL_EDGES = [Edge("bin_dil_conv_5x5", source, node) for source, node in EDGES]
CELLS = {
    "all edges": ALL_EDGES,
    "no edges": [],
    "one input": [Edge("none", 1, n) for n in range(2, 6)],
}
CELLS["twice the same"] = [
    Edge(name, 0, node) for node in range(2, 6) for name in ("none", "bin_conv_3x3")
]
CELLS["long names"] = [Edge("x" * 70, source, node) for source, node in EDGES[:9]]
for name in genotypes.named():
    for part in ("normal", "reduce"):
        cell = getattr(genotypes.load(name), part)
        if not isinstance(cell, str):
            CELLS[f"{name} {part}"] = genotype_lib.edges(cell)


@pytest.fixture(params=CELLS, ids=lambda name: name.replace(" ", "_"))
def edges(request) -> list[Edge]:
    return CELLS[request.param]


def test_boxes_stand_apart_and_inside_and_hold_their_texts(edges):
    plan = layout(edges)
    for box in plan.boxes:
        assert text_width(box.text) < box.width
        assert box.left[0] >= 0 and box.right[0] <= plan.width + 1e-6
        assert BOX_HEIGHT / 2 <= box.y <= plan.skip_y - BOX_HEIGHT / 2
    for one, other in itertools.combinations(plan.boxes, 2):
        aside = abs(one.x - other.x) - (one.width + other.width) / 2
        assert aside >= 5 or abs(one.y - other.y) - BOX_HEIGHT >= 5, (one, other)


def sampled(points) -> np.ndarray:
    """Points of a line as it is drawn: Bezier curves with horizontal ends, and straight
    pieces.
    """
    t = np.linspace(0, 1, 41)[1:-1, None]
    pieces = []
    for index, (start, end) in enumerate(itertools.pairwise(np.array(points))):
        middle = (start[0] + end[0]) / 2
        first, second = np.array([middle, start[1]]), np.array([middle, end[1]])
        if index % 2:
            first, second = start + (end - start) / 3, start + (end - start) * 2 / 3
        a, b = (1 - t) ** 3 * start, 3 * (1 - t) ** 2 * t * first
        pieces.append(a + b + 3 * (1 - t) * t**2 * second + t**3 * end)
    return np.concatenate(pieces)


def test_no_line_crosses_a_box(edges):
    plan = layout(edges)
    for line in plan.lines:
        x, y = sampled(line.points).T
        for box in plan.boxes:
            inside = (abs(x - box.x) < box.width / 2 - 0.1) & (
                abs(y - box.y) < BOX_HEIGHT / 2 + 1
            )
            assert not inside.any(), (line, box)


def box_of(plan: Layout, edge: int):
    (box,) = (box for box in plan.boxes if box.edge == edge)
    return box


def test_each_edge_leads_from_its_source_through_its_layer_type_to_its_node(edges):
    plan = layout(edges)
    states = {box.text: box for box in plan.boxes if box.edge is None}
    names = ["c_(k-2)", "c_(k-1)", "2", "3", "4", "5"]
    assert set(states) == {*names, "concat", "c_(k)"}
    for position, edge in enumerate(edges):
        into, out = [line for line in plan.lines if line.edge == position]
        box = box_of(plan, position)
        assert box.text == edge.layer_type and into.source == out.source == edge.source
        assert (
            into.points[0] == states[names[edge.source]].right
            and into.points[-1] == box.left
        )
        assert out.points == (box.right, states[names[edge.node]].left) and out.arrow
    others = [line.points for line in plan.lines if line.edge is None]
    assert [(points[0], points[-1]) for points in others] == [
        *((states[name].right, states["concat"].left) for name in names[2:]),
        (states["concat"].right, states["c_(k)"].left),
    ]


def test_the_inputs_stay_in_their_order_and_the_same_cell_has_the_same_plan(edges):
    plan = layout(edges)
    above, below = (box for box in plan.boxes if box.text in ("c_(k-2)", "c_(k-1)"))
    assert above.y < below.y and plan.previous == below
    assert plan == layout(list(edges))


def test_the_order_has_fewer_crossings_than_the_one_it_begins_with():
    found = columns(ALL_EDGES)
    assert crossings(with_few_crossings(found)) < crossings(found) / 2


def test_a_cell_without_nodes_is_one_block():
    plan = block("gdas_fixed")
    assert [box.text for box in plan.boxes] == [
        "c_(k-2)",
        "c_(k-1)",
        "gdas_fixed",
        "c_(k)",
    ]
    assert [line.source for line in plan.lines] == [
        0,
        1,
        2,
    ] and plan.width == plan.output.right[0]
