"""The supernet of the search: on every edge a mixture of all layer types.

The mixture is weighted by the relaxed alphas (DARTS Eq. 2). `Supernet.edges` chooses
one of three functions that compute the edges leaving a state:

- `plain`: `edge_by_edge.plain_edges` is the formula as the paper prints it.
- `shared`: `shared_edges.shared_edges` computes the same with a quarter of the
  operations to compile, and the same number of multiplications.
- `chosen`: `edge_by_edge.chosen_edges` runs only the layer with the largest weight on
  each edge, for mixtures whose other weights are 0.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from bnas_jax.core import alphas as alphas_lib
from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.cell_parts import Preprocess, drop_path, with_skip
from bnas_jax.core.checks import choice
from bnas_jax.core.edge_spec import batching
from bnas_jax.core.errors import UserError, shown
from bnas_jax.core.fixed_reduction import FixedReduction
from bnas_jax.core.forms import Form, classify, form_of
from bnas_jax.core.genotype import EDGES, INPUTS, NODES, TABLE_3, leaving
from bnas_jax.core.layers import CONVOLUTION
from bnas_jax.core.mixed_edges import MixedEdges
from bnas_jax.core.schemes import Scheme, Xnor
from bnas_jax.core.stack import (
    Place,
    check_fields,
    check_image_size,
    check_images,
    stack,
)

# The values of `Supernet.edges`.
FORMS_OF_EDGES = ("shared", "plain", "chosen")


class Supernet(nn.Module):
    """The supernet, called as `apply(variables, alphas, images, train=False)`.

    It maps images (N, H, W, channels of an image) to logits (N, num_classes). alphas
    are {"normal", "reduce"}, each (14, layer types). The method `mixture` takes the
    mixture weights themselves in place of alphas.

    num_cells, channels: the number of cells, and the width of the nodes before the
        first reduction.
    layer_types: names of `LAYERS`.
    skip, reduction_skip, float_head, form: as in `Network`.
    binary_preprocess: True binarizes the preprocessing convolutions, too.
    edges: "shared" or "plain", which compute the same; or "chosen", which runs only the
        layer with the largest weight on each edge, as GDAS does. The variables are the
        same for all three.
    fixed_reduction: True takes GDAS's hand-made reduction cell.
        `weights["reduce"]` then has no effect and may be left out.
    batch_statistics: True makes BN in cells take the batch's statistics in evaluation,
        too.
    shared_statistics: True keeps one running mean and variance for all edges that leave
        a state, since they see the same batches. False keeps one for each edge and
        type, as released checkpoints do.

    Raises `UserError` for sizes below 1, for layer types that are not different names,
    for any other value of `edges`, for an arithmetic with `activations`, for alphas of
    other names or shapes, and for images that cannot be halved at each reduction.

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

    def __post_init__(self):
        # `jax.jit` needs a hashable module, and a list cannot be hashed.
        self.layer_types = _names(self.layer_types)
        check_fields(self)
        super().__post_init__()

    def __call__(self, alphas, images, *, train: bool = False):
        """Logits (N, num_classes), with the softmax of alpha as mixture weights.

        With `edges="chosen"`, each edge has only the layer of its largest alpha.
        """
        self._check_weights(alphas, "alphas")
        weights = alphas_lib.relax(alphas)
        # A single layer runs on each edge: the one that the search draws most often.
        if self.edges == "chosen":
            for name, value in alphas.items():
                largest = jnp.argmax(value, axis=-1)  # (14,)
                weights[name] = jax.nn.one_hot(largest, len(self.layer_types))
        return self.mixture(weights, images, train=train)

    @nn.compact
    def mixture(
        self, weights, images, *, train: bool = False, drop_path_rate=None, scalars=None
    ):
        """Logits (N, num_classes), with given mixture weights (DARTS Eq. 2).

        Raises `UserError` as the supernet does, and for weights of another shape.

        weights: the weight of each layer type on each edge, {"normal", "reduce"}, each
            (14, layer types).
        images: (N, H, W, channels of an image).
        drop_path_rate: None, or the probability with which an edge is dropped in
            training; it needs the rng `drop_path`.
        scalars: None, or {"normal", "reduce"}, each (14,): for each edge, a number that
            is added to all of its outputs.
        """
        self._check_weights(weights, "mixture weights")
        choice("edges", self.edges, choices=FORMS_OF_EDGES)
        # The edges that leave a state share its signs, which have the type `dtype`.
        if self.arithmetic.activations is not None:
            raise UserError(
                "a supernet keeps its states in the dtype of its arithmetic; write "
                "Arithmetic(conv_dtype=...) without activations"
            )

        # The stem gives both inputs of the first cell.
        check_images(images)
        images = images.astype(self.arithmetic.dtype)
        form = form_of(self.form)
        stem = form.stem(
            channels=self.channels, arithmetic=self.arithmetic, name="stem"
        )
        before, previous = stem(images, train=train)
        check_image_size(previous.shape, self.num_cells, image_stride=form.image_stride)

        # The factors of drop-path for each cell: (14, N), or None in an evaluation.
        factors: list | jax.Array = [None] * self.num_cells
        if train and drop_path_rate is not None:
            factors = self._drop_path(drop_path_rate, batch=len(images))

        # Each cell reads the outputs of the two preceding cells.
        left_float = float_edges(self)
        in_cells = train or self.batch_statistics
        for place in self.places:
            if place.reduction and self.fixed_reduction:
                cell = self._fixed_cell(place)
                output = cell(before, previous, train=in_cells)
            else:
                mixed = self._mixed_cell(place, left_float=left_float[place.index])
                added = None if scalars is None else scalars[place.kind]
                output = mixed(
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

    def _check_weights(self, weights, what: str) -> None:
        """Raises `UserError` for weights, or alphas, of other names or shapes.

        what: alphas or mixture weights.
        """
        shape = (len(EDGES), len(self.layer_types))
        names = {place.kind for place in self.places}
        if self.fixed_reduction:
            names -= {"reduce"}
        # A list of numbers has no shape, and is no array.
        of = lambda value: getattr(value, "shape", f"a {type(value).__name__}")
        found: Any = of(weights)
        if isinstance(weights, Mapping):
            found = {name: of(value) for name, value in weights.items()}
        fits = isinstance(weights, Mapping) and names <= set(weights)
        if not fits or any(found[name] != shape for name in weights):
            raise UserError(
                f'{what} must be {{"normal": {shape}, "reduce": {shape}}}, a row for '
                f"each edge and a column for each of layer_types, got {found}"
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

    def _mixed_cell(self, place: Place, *, left_float: tuple) -> "MixedCell":
        """The searched cell at a place. left_float: its entry of `float_edges`."""
        return MixedCell(
            layer_types=self.layer_types,
            float_edges=left_float,
            edges=self.edges,
            shared_statistics=self.shared_statistics,
            **self._common_fields(place),
        )

    def _fixed_cell(self, place: Place) -> FixedReduction:
        """GDAS's reduction cell at a place."""
        return FixedReduction(search=True, **self._common_fields(place))

    def _common_fields(self, place: Place) -> dict[str, Any]:
        """The fields that both kinds of cells have."""
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
        """Mixture weights 1 / (number of layer types), (14, layer types) for each cell.

        All layer types have a weight, so that initialising makes all their variables.
        """
        types = len(self.layer_types)
        weights = jnp.full((len(EDGES), types), 1 / types, dtype=self.arithmetic.dtype)
        return {"normal": weights, "reduce": weights}

    @property
    def places(self) -> tuple[Place, ...]:
        """The place of each cell in the stack."""
        return stack(self.num_cells, self.channels, halved=form_of(self.form).halved)


class MixedCell(nn.Module):
    """A cell of the supernet.

    float_edges: this cell's entry of the function `float_edges`.

    The other fields are those of `Supernet`.
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
        """The cell's output, (N, H', W', 4 * channels).

        before, previous: the outputs of the two preceding cells, (N, H, W, C) each.
            `previous` is the later one.
        weights: (14, layer types).
        factors: None, or this cell's `drop_path`, (14, N).
        scalars: None, or the number that is added to each edge's output, (14,).
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

        # From each state an edge leads to every later node, which adds its edges up.
        # With the edges of all earlier states added, a node is complete, and a state.
        nodes: list = [0] * NODES
        for source in range(INPUTS + NODES - 1):
            if source >= INPUTS:
                states.append(nodes[source - INPUTS])

            # All edges that leave the state, (N, H', W', E, channels).
            edges = self._edges_from(source)
            numbers = leaving(source)  # positions in EDGES
            rows = weights[jnp.array(numbers)]  # (E, layer types)
            mixed = edges(states[source], rows, train=train)

            for position, edge in enumerate(numbers):
                _, target = EDGES[edge]
                node = target - INPUTS
                edge_output = mixed[:, :, :, position]  # (N, H', W', channels)
                if factors is not None:
                    edge_output = edge_output * factors[edge][:, None, None, None]
                if scalars is not None:
                    edge_output = edge_output + scalars[edge]
                nodes[node] = nodes[node] + edge_output

        # The cell's output joins its nodes.
        output = jnp.concatenate(nodes, axis=-1)  # (N, H', W', 4 * channels)
        return with_skip(self, output, previous, train=train)

    def _edges_from(self, source: int) -> "MixedEdges":
        """The edges that leave the state `source`."""
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


def _names(layer_types: Any) -> tuple[str, ...]:
    """The names of layer types; raises `UserError` for other values, and for two equal.

    layer_types: names in any collection.
    """
    names: tuple = ()
    if isinstance(layer_types, Iterable) and not isinstance(layer_types, str):
        names = tuple(layer_types)
    are_names = all(isinstance(name, str) for name in names)
    if not names or not are_names or len(set(names)) < len(names):
        raise UserError(
            'layer_types must be different names such as ("none", "bin_conv_3x3"), got '
            f"{shown(layer_types)}"
        )
    return names


def float_edges(net: Supernet) -> list[tuple[tuple[int, ...], ...]]:
    """How many edges keep float weights: `counts[cell][state][convolution type]`.

    They are the last edges that leave the state. The released code leaves them float by
    an index error (`network.float_convs`). In the search it leaves as many convolutions
    float as the skips and the preprocessing have: the last ones, in the order of cells,
    edges and layer types.

    Only layer types that run as one convolution are counted; all others stay binary.
    """
    types = [
        name for name in net.layer_types if batching(name, net.scheme) == CONVOLUTION
    ]

    # How many convolutions stay float.
    left = 0
    if net.float_head and net.skip:
        left += sum(place.reduction and place.follows_a_cell for place in net.places)
    if net.float_head and not net.binary_preprocess:
        left += INPUTS * net.num_cells

    # From the last cell to the first. In a cell, the last edges and types are dropped
    # from the binary ones.
    order = [(start, name) for start, _ in EDGES for name in types]
    cells = []
    for _ in range(net.num_cells):
        dropped = order[max(len(order) - left, 0) :]
        left = max(left - len(order), 0)

        # For each state, how many edges of each convolution type are dropped.
        states = []
        for state in range(INPUTS + NODES - 1):
            counts = [dropped.count((state, name)) for name in types]
            states.append(tuple(counts))
        cells.append(tuple(states))
    return cells[::-1]
