"""All edges that leave one state of the supernet, as one module.

The module makes the variables of these edges and calls the function that computes the
edges (`Supernet.edges`). The variables are the same for every function, so that they
can read each other's checkpoints.
"""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from flax.core import unfreeze

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.edge_by_edge import Edges, chosen_edges, plain_edges
from bnas_jax.core.edge_spec import EdgeSpec
from bnas_jax.core.edge_variables import EdgeVariables, module_name
from bnas_jax.core.initializers import uniform_fan_in
from bnas_jax.core.layers import COPIES, is_latent, layer_type
from bnas_jax.core.ops.batch_norm import initial_statistics
from bnas_jax.core.schemes import Scheme
from bnas_jax.core.shared_edges import shared_edges


class MixedEdges(nn.Module):
    """Each edge that leaves a state: the weighted sum of its layer types' outputs.

    For E edges, C channels and the layer types TYPE, the variables are:

    - Convolutions: `latent_TYPE` and, for edges that stay float, `kernel_TYPE`. The
      kernels of all edges are concatenated on the last axis, (k, k, C, E * C).
    - Layer types that run in `COPIES`: a submodule `TYPE`, whose variables are
      concatenated in the same way.
    - Layer types whose edges are not computed together: a submodule for each edge,
      `edge0_TYPE` and so on.
    - The running statistics `bn`, of the convolutions' input, and `pool_bn`, of the
      poolings.

    channels: the channels of the state, and of each edge's output.
    float_edges: for each convolution type, in the order of `layer_types`, how many of
        the last edges have float weights; None is 0 for each.

    The other fields are those of `supernet.Supernet`.
    """

    channels: int
    stride: int
    layer_types: tuple[str, ...]
    scheme: Scheme
    arithmetic: Arithmetic
    float_edges: tuple[int, ...] | None = None
    edges: str = "shared"
    shared_statistics: bool = True
    bn_of_pools: bool = True

    @nn.compact
    def __call__(self, x, weights, *, train: bool):
        """The weighted sum on each edge, (N, H', W', E, C).

        x: the state, (N, H, W, C).
        weights: (E, layer types).
        """
        weights = weights.astype(self.arithmetic.dtype)
        channels, edges = x.shape[-1], len(weights)
        kernels = self._make_kernels(channels, edges)
        running = self._make_statistics(channels, edges)

        # `_shared` initialises the variables whatever `edges` is, so that they do not
        # depend on it.
        compute = self._edge_by_edge
        if self.edges == "shared" or self.is_initializing():
            compute = self._shared
        return compute(x, weights, kernels=kernels, running=running, train=train)

    @property
    def spec(self) -> EdgeSpec:
        """The settings that the edges share."""
        return EdgeSpec(
            layer_types=self.layer_types,
            stride=self.stride,
            scheme=self.scheme,
            arithmetic=self.arithmetic,
            bn_of_pools=self.bn_of_pools,
        )

    def macs(self, x, y) -> tuple[int, int]:
        """(binary, float) multiply-accumulates of one image.

        Only `latent_TYPE` and `kernel_TYPE` are counted: the submodules have rows of
        their own in the cost table.
        """
        _, height, width, *_ = y.shape
        binary = floats = 0
        for name, kernel in self.variables.get("params", {}).items():
            # A submodule's parameters are a dict.
            if not hasattr(kernel, "shape"):
                continue
            count = height * width * kernel.size
            if is_latent(name):
                binary += count
            else:
                floats += count
        return binary, floats

    # The shared form.

    def _shared(self, x, weights, *, kernels: dict, running: dict, train: bool):
        """`shared_edges` for convolutions and poolings, submodules for other types."""
        spec, edges = self.spec, len(weights)

        # Convolutions and poolings, (N, H', W', E, C).
        values = {name: variable.value for name, variable in running.items()}
        total, new = shared_edges(x, weights, kernels, values, spec=spec, train=train)
        if self._keeps_statistics(train):
            for name, variable in running.items():
                variable.value = new[name]

        # All other layer types run as modules.
        for index, name in enumerate(self.layer_types):
            how = spec.batching(name)
            column = weights[:, index]  # (E,)
            if how == COPIES:
                y = self._copies(name, x, edges=edges, train=train)
                total = total + y * column[:, None]
            elif how is None:
                y = self._one_by_one(name, x, edges=edges, train=train)
                total = total + y * column[:, None]

        # The sum is still a scalar if all layer types are zeroise.
        if total.ndim == 0:
            zeros = jnp.zeros_like(x[:, :: self.stride, :: self.stride])
            total = jnp.stack([zeros] * edges, axis=3)
        return total

    def _copies(self, name: str, x, *, edges: int, train: bool):
        """A layer type on all edges, as one module: (N, H', W', E, C).

        Each edge reads its copy of the state and writes its part of the channels.
        """
        copies = self._module(name, name=name, copies=edges)
        tiled = jnp.tile(x, (1, 1, 1, edges))  # (N, H, W, E * C)
        y = copies(tiled, train=train)
        return y.reshape(*y.shape[:3], edges, -1)

    def _one_by_one(self, name: str, x, *, edges: int, train: bool):
        """A layer type on all edges, as a module for each: (N, H', W', E, C)."""
        outputs = []
        for edge in range(edges):
            layer = self._module(name, name=module_name(name, edge))
            outputs.append(layer(x, train=train))
        return jnp.stack(outputs, axis=3)

    # The plain and the chosen form, which compute the edges one by one.

    def _edge_by_edge(self, x, weights, *, kernels: dict, running: dict, train: bool):
        """`plain_edges` or `chosen_edges`, on each edge's part of the variables."""
        spec = self.spec

        # Unbound modules: `Edges.layer` applies them to parts of this module's
        # variables.
        modules = {}
        for name in self.layer_types:
            if spec.batching(name) in (COPIES, None):
                bound = self._module(name, name=f"one_{name}")
                modules[name] = bound.clone(parent=None, name=None)
        edges = Edges(spec=spec, modules=modules, train=train)

        # Each edge's part of the variables.
        parts = EdgeVariables(
            spec=spec,
            channels=self.channels,
            edges=len(weights),
            shared_statistics=self.shared_statistics,
        )
        values = {name: variable.value for name, variable in running.items()}
        variables = unfreeze(dict(self.variables))
        params, stats = parts.split(kernels, values, variables)

        # The sums, (N, H', W', E, C), and each edge's updated statistics.
        compute: Callable = plain_edges
        if self.edges == "chosen":
            compute = chosen_edges
        total, new = compute(x, weights, params=params, stats=stats, edges=edges)
        if not self._keeps_statistics(train):
            return total

        # Only layers that ran have updated their statistics.
        choices = None
        if self.edges == "chosen":
            choices = jnp.argmax(weights, axis=1)  # (E,)
        for name, value in parts.moved(values, new, choices=choices).items():
            running[name].value = value
        for name, value in parts.of_modules(new).items():
            self.put_variable("batch_stats", name, value=value)
        return total

    # The variables and modules.

    def _keeps_statistics(self, train: bool) -> bool:
        """Whether to store the updated statistics, as in `normalization.BatchNorm`."""
        return (
            train
            and not self.is_initializing()
            and self.is_mutable_collection("batch_stats")
        )

    def _make_kernels(self, channels: int, edges: int) -> dict:
        """The parameters `latent_TYPE` of binary edges and `kernel_TYPE` of float ones.

        channels: the channels of the state.
        """
        spec, dtype = self.spec, self.arithmetic.dtype
        kernels = {}
        # For each convolution type, how many of the last edges stay float.
        counts = self.float_edges or (0,) * len(spec.convs)
        for name, floats in zip(spec.convs, counts, strict=True):
            size = spec.conv_type(name).kernel
            # Under the scheme `float`, and in the first of two stages, all edges stay
            # float.
            if not self.scheme.binary_weights:
                floats = edges

            # One array for all binary edges, and one for all float edges.
            for prefix, count in (("latent", edges - floats), ("kernel", floats)):
                if count == 0:
                    continue
                shape = (size, size, channels, count * self.channels)
                parameter = f"{prefix}_{name}"
                kernels[parameter] = self.param(parameter, uniform_fan_in, shape, dtype)
        return kernels

    def _make_statistics(self, channels: int, edges: int) -> dict:
        """The running statistics {"bn", "pool_bn"}, for the layers that need them.

        `bn` belongs to the convolutions' input, `pool_bn` to the poolings.
        """
        spec = self.spec
        # Their shapes, if each edge and layer type has statistics of its own.
        shapes: dict[str, tuple[int, ...]] = {}
        if spec.convs:
            shapes["bn"] = (len(spec.convs), edges, channels)
        if spec.pools and self.bn_of_pools:
            shapes["pool_bn"] = (edges, len(spec.pools) * channels)

        running = {}
        for name, shape in shapes.items():
            # All edges see the same batches, so that one copy is enough.
            if self.shared_statistics:
                shape = shape[-1:]
            running[name] = self.variable(
                "batch_stats", name, initial_statistics, shape, self.arithmetic.dtype
            )
        return running

    def _module(self, kind: str, *, name: str, **options) -> nn.Module:
        """The module of a layer type on one edge, or with `copies` on several edges."""
        return layer_type(kind).module(
            features=self.channels,
            stride=self.stride,
            scheme=self.scheme,
            arithmetic=self.arithmetic,
            search=True,
            binary_weights=True,
            name=name,
            **options,
        )
