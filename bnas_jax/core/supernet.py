"""The search's network: every edge a mixture of all layer types, weighted by the
relaxed alphas (DARTS Eq. 2).

Three functions compute the edges that leave a state (`Supernet.edges`).
`edge_by_edge.plain_edges` is the formula as the paper prints it.
`shared_edges.shared_edges` gives the same with a quarter of the operations to compile,
and as many products. `edge_by_edge.chosen_edges` runs the layer with the largest weight
of each edge alone, for weights that are 0 but for that one.
"""

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from bnas_jax.core import alphas as alphas_lib
from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.cell_parts import Preprocess, drop_path, with_skip
from bnas_jax.core.errors import UserError
from bnas_jax.core.fixed_reduction import FixedReduction
from bnas_jax.core.forms import Form, classify, form_of
from bnas_jax.core.genotype import EDGES, INPUTS, NODES, TABLE_3, leaving
from bnas_jax.core.layers import CONVOLUTION
from bnas_jax.core.mixed_edges import MixedEdges
from bnas_jax.core.schemes import Scheme, Xnor
from bnas_jax.core.shared_edges import batching
from bnas_jax.core.stack import Place, check_image_size, stack

# What `edges` of a supernet may be.
FORMS_OF_EDGES = ("shared", "plain", "chosen")


class Supernet(nn.Module):
    """`apply(variables, alphas, images, train=False)`: NHWC images to logits (N,
    num_classes).

    alphas: {"normal", "reduce"}, each (14, layer types). `mixture` takes the weights of
    the layer types themselves.
    num_cells, channels: of the stack; channels are those of the first cell's nodes.
    layer_types: names of `LAYERS`.
    skip, reduction_skip, float_head, form: as in `Network`. binary_preprocess: binarize
    the preprocessing convolutions, too.
    edges: "shared" or "plain", two forms of one function; "chosen" runs the layer of
    the largest weight of an edge alone, for
        weights that are 0 but for that one, as GDAS has them. All have the same
        variables.
    fixed_reduction: reduction cells are GDAS's hand-made ones; `weights["reduce"]` is
    then of no use and may be left out.
    batch_statistics: BN in cells takes the batch's statistics in evaluation, too.
    shared_statistics: one running mean and variance for all edges that leave a state,
    as they see the same batches; False
        keeps one for each edge and type, as released checkpoints do.

    Raises `UserError` for another word in `edges`, and for images that cannot be halved
    at each reduction.

    >>> supernet = bnas.Supernet(num_cells=5, channels=4, num_classes=10)
    >>> supernet.even_mixture()["normal"].shape
    (14, 7)
    """

    num_cells: int
    channels: int
    num_classes: int
    layer_types: tuple[str, ...] = TABLE_3
    skip: bool = True
    reduction_skip: str = "binary_bn"
    float_head: bool = False
    binary_preprocess: bool = False
    edges: str = "shared"
    shared_statistics: bool = True
    form: str = "cifar"
    fixed_reduction: bool = False
    batch_statistics: bool = False
    scheme: Scheme = Xnor()
    arithmetic: Arithmetic = Arithmetic()

    def __call__(self, alphas, images, *, train: bool = False):
        """Logits of the softmax of alpha; with `edges="chosen"` of the layer of the
        largest alpha of each edge.
        """
        weights = alphas_lib.relax(alphas)
        # One layer an edge: the one that the search would draw most often.
        if self.edges == "chosen":
            largest = {
                name: jnp.argmax(value, axis=-1) for name, value in alphas.items()
            }
            for name, index in largest.items():
                weights[name] = jax.nn.one_hot(index, len(self.layer_types))
        return self.mixture(weights, images, train=train)

    @nn.compact
    def mixture(
        self, weights, images, *, train: bool = False, drop_path_rate=None, scalars=None
    ):
        """Logits (N, num_classes) of images (N, H, W, C), with the mixture weights
        given instead of alpha (DARTS Eq. 2).

        weights: of the layer types on each edge, {"normal", "reduce"}, each (14, layer
        types).
        drop_path_rate: None or that of whole edges, of use in training alone; needs the
        rng `drop_path`.
        scalars: None or what is added to all outputs of an edge, {"normal", "reduce"},
        each (14,).

        `UserError` as for the supernet; an `AssertionError` for weights of another
        shape.
        """
        shape = (len(EDGES), len(self.layer_types))
        chex.assert_shape(list(weights.values()), shape)
        if self.edges not in FORMS_OF_EDGES:
            raise UserError(
                f"edges must be one of {', '.join(FORMS_OF_EDGES)}, got {self.edges!r}"
            )
        # The stem gives both inputs of the first cell.
        images = images.astype(self.arithmetic.dtype)
        form = form_of(self.form)
        stem = form.stem(
            channels=self.channels, arithmetic=self.arithmetic, name="stem"
        )
        before, previous = stem(images, train=train)  # (N, H, W, 3 * channels) each
        check_image_size(previous.shape, self.num_cells)

        # One for each cell: (14, N), or None in an evaluation.
        factors: list | jax.Array = [None] * self.num_cells
        if train and drop_path_rate is not None:
            factors = self._drop_path(drop_path_rate, batch=len(images))

        # Each cell reads the outputs of the two cells before.
        left_float = float_edges(self)
        in_cells = train or self.batch_statistics
        for place in self.places:
            if place.reduction and self.fixed_reduction:
                output = self._fixed(place)(before, previous, train=in_cells)
            else:
                cell = self._mixed(place, left_float=left_float[place.index])
                added = None if scalars is None else scalars[place.kind]
                output = cell(
                    before,
                    previous,
                    weights[place.kind],
                    train=in_cells,
                    factors=factors[place.index],
                    scalars=added,
                )
            before, previous = previous, output
        return classify(
            form,
            previous,
            num_classes=self.num_classes,
            arithmetic=self.arithmetic,
            train=train,
        )

    def _drop_path(self, rate, *, batch: int) -> jax.Array:
        """The factors of all edges, (cells, 14, N)."""
        return drop_path(
            self.make_rng("drop_path"),
            rate,
            cells=self.num_cells,
            layers=len(EDGES),
            batch=batch,
            arithmetic=self.arithmetic,
        )

    def _mixed(self, place: Place, *, left_float: tuple) -> "MixedCell":
        return MixedCell(
            layer_types=self.layer_types,
            float_edges=left_float,
            edges=self.edges,
            shared_statistics=self.shared_statistics,
            **self._of_cell(place),
        )

    def _fixed(self, place: Place) -> FixedReduction:
        return FixedReduction(search=True, **self._of_cell(place))

    def _of_cell(self, place: Place) -> dict[str, Any]:
        """The fields that all kinds of cells have."""
        return {
            "place": place,
            "form": form_of(self.form),
            "scheme": self.scheme,
            "arithmetic": self.arithmetic,
            "skip": self.skip,
            "reduction_skip": self.reduction_skip,
            "binary_preprocess": self.binary_preprocess,
            "name": place.name,
        }

    def even_mixture(self) -> dict[str, jax.Array]:
        """The same weight for each layer type, to initialise with."""
        types = len(self.layer_types)
        weights = jnp.full((len(EDGES), types), 1 / types, dtype=self.arithmetic.dtype)
        return {"normal": weights, "reduce": weights}

    @property
    def places(self) -> tuple[Place, ...]:
        """The plan of the stack."""
        return stack(self.num_cells, self.channels, halved=form_of(self.form).halved)


class MixedCell(nn.Module):
    """A cell of the search's network. float_edges: see the function of that name, for
    this cell.
    """

    place: Place
    form: Form
    layer_types: tuple[str, ...]
    scheme: Scheme
    arithmetic: Arithmetic
    skip: bool
    reduction_skip: str
    binary_preprocess: bool
    float_edges: tuple[tuple[int, ...], ...]
    edges: str
    shared_statistics: bool

    @nn.compact
    def __call__(
        self, before, previous, weights, *, train: bool, factors=None, scalars=None
    ):
        """before, previous: outputs of the two cells before, NHWC; weights: (14, layer
        types); factors: None or this cell's `drop_path`, (14, N); scalars: None or what
        is added to each edge, (14,).
        """
        # Both inputs: (N, H, W, channels). BN has no scale and shift in the search.
        binary = self.binary_preprocess
        preprocess = Preprocess(
            place=self.place,
            scheme=self.scheme,
            arithmetic=self.arithmetic,
            binary_weights=(binary, binary),
            affine=(False, False),
            binary_input=binary,
            factorized=self.form.factorized,
            name="preprocess",
        )
        states = list(preprocess(before, previous, train=train))

        # Each state sends its edges to all later nodes, which add them up.
        nodes: list = [0] * NODES
        for source in range(INPUTS + NODES - 1):
            if source >= INPUTS:
                states.append(nodes[source - INPUTS])
            edges = self._edges_from(source)
            numbers = leaving(source)
            rows = weights[jnp.array(numbers)]  # (E, layer types)
            mixed = edges(states[source], rows, train=train)  # (N, H', W', E, C)
            for position, edge in enumerate(numbers):
                _, target = EDGES[edge]
                node = target - INPUTS
                edge_output = mixed[:, :, :, position]  # (N, H', W', C)
                if factors is not None:
                    edge_output = edge_output * factors[edge][:, None, None, None]
                if scalars is not None:
                    edge_output = edge_output + scalars[edge]
                nodes[node] = nodes[node] + edge_output
        output = jnp.concatenate(nodes, axis=-1)
        return with_skip(self, output, previous, train=train)

    def _edges_from(self, source: int) -> "MixedEdges":
        return MixedEdges(
            channels=self.place.channels,
            stride=self.place.stride(source),
            layer_types=self.layer_types,
            scheme=self.scheme,
            arithmetic=self.arithmetic,
            float_edges=self.float_edges[source],
            edges=self.edges,
            shared_statistics=self.shared_statistics,
            bn_of_pools=self.form.bn_of_pools_in_search,
            name=f"state{source}",
        )


def float_edges(net: Supernet) -> list[tuple[tuple[int, ...], ...]]:
    """For each cell, state and convolution type: how many of the last edges that leave
    the state keep float weights.

    The released index error again (`network.float_convs`): here the float convolutions
    that shift the count are those of the skips and of the preprocessing, and those left
    over are the last ones in the order of edges, then types. Layer types whose edges
    are not computed together are left out: theirs stay binary.
    """
    types = [
        name for name in net.layer_types if batching(name, net.scheme) == CONVOLUTION
    ]

    # How many convolutions are left over: as many as there are of skips and of the
    # preprocessing.
    left = 0
    if net.float_head and net.skip:
        left += sum(place.reduction and place.follows_a_cell for place in net.places)
    if net.float_head and not net.binary_preprocess:
        left += INPUTS * net.num_cells

    # From the last cell to the first, and in a cell from the last edge and type to the
    # first.
    order = [(start, name) for start, _ in EDGES for name in types]
    cells = []
    for _ in range(net.num_cells):
        dropped = order[max(len(order) - left, 0) :]
        left = max(left - len(order), 0)
        states = []
        for state in range(INPUTS + NODES - 1):
            counts = [dropped.count((state, name)) for name in types]
            states.append(tuple(counts))
        cells.append(tuple(states))
    return cells[::-1]
