"""The cell of a final network (section 4.2, Figure 5b).

Both inputs are preprocessed, each node adds up its edges, the nodes are concatenated,
and the inter-cell skip is added.
"""

import functools
import operator
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.cell_parts import Preprocess, with_skip
from bnas_jax.core.fixed_reduction import FixedReduction
from bnas_jax.core.forms import Form
from bnas_jax.core.genotype import FIXED_REDUCTION, INPUTS, ZEROISE, Cell, edges
from bnas_jax.core.layer_modules import Identity
from bnas_jax.core.layers import BinaryConvType, layer_module, layer_type
from bnas_jax.core.modules import BinaryConv
from bnas_jax.core.normalization import share_all
from bnas_jax.core.schemes.scheme import Scheme
from bnas_jax.core.stack import Place


def num_layers(cell: Cell | str) -> int:
    """The number of layers of a cell. Drop-path drops each of them by itself."""
    if cell == FIXED_REDUCTION:
        return FixedReduction.LAYERS
    return len(edges(cell))


def num_convs(cell: Cell | str, place: Place) -> int:
    """The number of convolutions of a final cell.

    The preprocessing is counted, the skip across a reduction cell is not.
    """
    count = INPUTS
    for edge in edges(cell):
        stride = place.stride(edge.source)
        count += layer_type(edge.layer_type).num_convs(stride)
    return count


class FinalCell(nn.Module):
    """One cell of the final network.

    cell: the (layer type, input) pairs of its nodes.
    form: see `forms.Form`.
    skip: whether the previous cell's output is added.
    float_convs: how many of the cell's last convolutions keep float weights
        (`network.float_convs`).
    """

    cell: Cell
    place: Place
    form: Form
    scheme: Scheme
    arithmetic: Arithmetic
    skip: bool = True
    reduction_skip: str = "binary_bn"
    float_convs: int = 0

    @nn.compact
    def __call__(self, before, previous, *, train: bool, factors=None):
        """The cell's output, (N, H', W', 4 * channels).

        before, previous: the outputs of the two preceding cells, (N, H, W, C) each,
            or `Shared`. `previous` is the later one.
        factors: None, or this cell's `drop_path`, (layers, N).
        """
        # The first convolutions are binary, the last ones may stay float.
        num_binary = num_convs(self.cell, self.place) - self.float_convs
        binary = self._binary_layers(num_binary)

        # The states: both inputs, later the nodes. Layers that begin with a BN read
        # them from `shared`.
        preprocess = self._preprocess(num_binary)
        states = list(preprocess(before, previous, train=train))
        shared = self._shared(states, train=train)

        # Each node adds up its edges. `position` numbers the layers of the cell; as in
        # the authors' code, a zeroise layer has a number, too.
        position = 0
        for node in self.cell:
            outputs = []
            for name, source in node:
                if name != ZEROISE:
                    layer = self._layer(
                        name,
                        source=source,
                        position=position,
                        binary_weights=binary[position],
                    )
                    # A subclass of `BinaryConv` need not begin with a BN.
                    x = shared[source] if type(layer) is BinaryConv else states[source]
                    y = layer(x, train=train)  # (N, H', W', channels)
                    # As in DARTS's code, an identity is never dropped.
                    if factors is not None and not isinstance(layer, Identity):
                        factor = factors[position][:, None, None, None]
                        y = self.arithmetic.between_layers(y * factor)
                    outputs.append(y)
                position += 1

            # The node is a state of the later nodes.
            states.append(self._node(outputs, states[0]))
            shared |= self._shared(states[-1:], train=train, first=len(states) - 1)

        # The cell's output joins its nodes.
        output = jnp.concatenate(states[INPUTS:], axis=-1)  # (N, H', W', 4 * channels)
        return with_skip(self, output, previous, train=train)

    def _binary_layers(self, num_binary: int) -> list[bool]:
        """For each layer, whether its weights are binary.

        num_binary: how many of the cell's first convolutions have binary weights.
        """
        binary, conv = [], INPUTS  # the preprocessing's convolutions come first
        for edge in edges(self.cell):
            binary.append(conv < num_binary)
            stride = self.place.stride(edge.source)
            conv += layer_type(edge.layer_type).num_convs(stride)
        return binary

    def _node(self, outputs: list, state):
        """The sum of a node's layers; zeros where all of them are zeroise.

        state: an input state of the cell, (N, H, W, channels).
        """
        if outputs:
            return functools.reduce(operator.add, outputs)
        stride = self.place.stride(0)
        return jnp.zeros_like(state[:, ::stride, ::stride])

    def _preprocess(self, num_binary: int) -> Preprocess:
        """The preprocessing: the first two of the cell's convolutions."""
        return Preprocess(
            place=self.place,
            scheme=self.scheme,
            arithmetic=self.arithmetic,
            binary_weights=(num_binary > 0, num_binary > 1),
            affine=(self.form.affine_resize or not self.place.halved, True),
            factorized=self.form.factorized,
            name="preprocess",
        )

    def _layer(
        self, name: str, *, source: int, position: int, binary_weights: bool
    ) -> nn.Module:
        """The module of a layer type on an edge from the state `source`.

        position: the number of the layer in the cell.
        """
        return layer_module(
            name,
            bn_of_pools=self.form.bn_of_pools,
            features=self.place.channels,
            stride=self.place.stride(source),
            scheme=self.scheme,
            arithmetic=self.arithmetic,
            search=False,
            binary_weights=binary_weights,
            layer=f"layer{position}",
        )

    def _shared(self, states: list, *, train: bool, first: int = 0) -> dict[int, Any]:
        """{number: state}; `Shared` where several layers begin with a BN of the state.

        first: the number of `states[0]` in the cell.
        """
        # The source of each layer that begins with a BN.
        readers = []
        for edge in edges(self.cell):
            if type(layer_type(edge.layer_type)) is BinaryConvType:
                readers.append(edge.source)

        # Over several devices, one collective gathers the statistics of all shared
        # states. This saves a collective for a state with a single reader, too.
        least_readers = 2
        if len(states) > 1 and self.arithmetic.bn_axis:
            least_readers = 1
        found = dict(enumerate(states, first))
        chosen = [number for number in found if readers.count(number) >= least_readers]
        if not chosen:
            return found

        shared = share_all(
            [found[number] for number in chosen],
            scheme=self.scheme,
            arithmetic=self.arithmetic,
            train=train,
        )
        return found | dict(zip(chosen, shared, strict=True))
