"""`cost`: counts a model by calling it under `jax.eval_shape`.

Each module with weights that is called adds its row.
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from bnas_jax.core.arithmetic import plain_form
from bnas_jax.core.cell import FinalCell
from bnas_jax.core.cost.counts import Cost, Row
from bnas_jax.core.errors import UserError, shown
from bnas_jax.core.layers import is_latent
from bnas_jax.core.normalization import BatchNorm
from bnas_jax.core.schemes import Float
from bnas_jax.core.stack import check_image_shape
from bnas_jax.core.supernet import MixedCell, Supernet


def cost(
    model: nn.Module, *, image_shape: tuple[int, int, int], walked: dict | None = None
) -> Cost:
    """The cost of one image through a network or a supernet.

    Only shapes are computed. A module has a row if it has parameters or a method
    `macs(x, y)`, which returns its (binary, float) multiply-accumulates for an input x
    and its output y. The parameters `latent` and `latent_TYPE` (`layers.is_latent`)
    have one bit, all others 32.

    image_shape: (H, W, C).
    walked: a cache of cells: {}, or the dictionary that an earlier call for a network
        of the same scheme and arithmetic has filled. Cells in it are not walked again.

    Raises `UserError` for an image size that the model cannot take, and for a module
    that has kernels but no `macs`.

    >>> genotype = bnas.load_genotype("latest_cell")
    >>> network = bnas.Network(genotype, num_cells=5, channels=8, num_classes=10)
    >>> bnas.cost(network, image_shape=(8, 8, 1)).total.params
    209940
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"cost takes a network, such as a Network, got {shown(model)}")
    check_image_shape(image_shape)
    # Without the auxiliary head, which exists only in training.
    if getattr(model, "auxiliary", False):
        model = model.clone(auxiliary=False)
    # The plain arithmetic is traced faster and has the same counts.
    model = plain_form(model)
    if walked is None:
        walked = {}

    # The forward pass, without computing anything.
    walk = _Walk(walked)
    with nn.intercept_methods(walk.intercept):
        jax.eval_shape(lambda: _initialise(model, image_shape))
    return Cost(tuple(walk.rows))


def float_twin(model: nn.Module) -> nn.Module:
    """The same model with every convolution float."""
    return model.clone(scheme=Float())


def _initialise(model: nn.Module, image_shape: tuple[int, int, int]):
    key = jax.random.key(0)
    images = jnp.zeros((1, *image_shape))
    if isinstance(model, Supernet):
        return model.init(
            key, model.even_mixture(), images, train=False, method="mixture"
        )
    return model.init(key, images, train=False)


class _Walk:
    """Collects the rows of the modules that are called. Equal cells are walked once.

    cells: {fields and input shapes of a cell: (its output's shape and type, its path,
        its rows)}.
    """

    def __init__(self, cells: dict):
        self.rows: list[Row] = []
        self._cells = cells
        self._called: set[tuple[str, ...]] = set()

    def intercept(self, call, args, kwargs, context: nn.module.InterceptorContext):
        """Called by `nn.intercept_methods` in place of each method of a module."""
        module = context.module
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        if isinstance(module, FinalCell | MixedCell):
            return self._cell(module, call=call, args=args, kwargs=kwargs)
        return self._module(module, call=call, args=args, kwargs=kwargs)

    def _module(self, module, *, call, args, kwargs):
        """Calls the module, and adds its row after those of its submodules."""
        y = call(*args, **kwargs)
        self.rows += self._rows_of(module, args=args, y=y)
        return y

    def _cell(self, module, *, call, args, kwargs):
        """`_module` for a cell, which is called only if no equal cell was."""
        shapes = tuple(leaf.shape for leaf in jax.tree.leaves(args))
        key = (_fields(module), shapes)
        prefix = "/".join(module.path)

        # The first of equal cells is called.
        if key not in self._cells:
            first = len(self.rows)
            y = self._module(module, call=call, args=args, kwargs=kwargs)
            output = jax.eval_shape(lambda: y)
            self._cells[key] = (output, prefix, self.rows[first:])
            return y

        # The others get the same rows under their own paths, and output zeros.
        output, walked, rows = self._cells[key]
        for row in rows:
            name = prefix + row.name.removeprefix(walked)
            self.rows.append(dataclasses.replace(row, name=name))
        return jnp.zeros(output.shape, output.dtype)

    def _rows_of(self, module, *, args, y) -> list[Row]:
        """The rows of a call."""
        # The parameters of a module that is called twice are counted once.
        rows = _rows(module, args=args, y=y)
        if module.path in self._called:
            for index, row in enumerate(rows):
                rows[index] = dataclasses.replace(
                    row, binary_params=0, float_params=0, bn_params=0
                )
        self._called.add(module.path)
        return rows


def _fields(module: nn.Module) -> tuple:
    """The fields that a cell's cost depends on: cells with equal fields cost the same.

    The cost depends on the index of a cell only by whether that is 0, as the first cell
    has no skip, and on `reduction_skip` only in reduction cells, as other skips have no
    convolution.
    """
    fields = {}
    for field in dataclasses.fields(module):
        if field.name not in ("parent", "name"):
            fields[field.name] = getattr(module, field.name)

    # Reduce the index to 0 or 1, and drop an unused `reduction_skip`.
    place = fields["place"]
    fields["place"] = dataclasses.replace(place, index=min(place.index, 1))
    if not place.reduction:
        del fields["reduction_skip"]
    return (type(module), *fields.items())


def _rows(module: nn.Module, *, args: tuple, y) -> list[Row]:
    """The module's row, if it has weights or MACs of its own; else no row."""
    arrays = _own_parameters(module)
    has_macs = hasattr(module, "macs")
    if not arrays and not has_macs:
        return []

    # Its multiply-accumulates.
    kind = type(module).__name__
    name = "/".join(module.path) or kind  # the model itself has no path
    binary_macs = float_macs = 0
    if has_macs:
        binary_macs, float_macs = module.macs(args[0], y)
    elif isinstance(module, nn.Dense | nn.Conv):
        # Flax's own layers: each pixel of the output takes all of the kernel.
        float_macs = math.prod(y.shape[1:-1]) * arrays["kernel"].size
    else:
        _check_no_kernels(arrays, name=name, kind=kind)
    if not arrays and not binary_macs and not float_macs:
        return []

    # Its parameters.
    binary_params, float_params = _numbers_of(arrays)
    bn_params = 0
    if isinstance(module, BatchNorm):
        bn_params = float_params

    output = jax.tree.leaves(y)[0]
    row = Row(
        name=name,
        kind=kind,
        out_shape=tuple(output.shape[1:]),
        binary_macs=int(binary_macs),
        float_macs=int(float_macs),
        binary_params=binary_params,
        float_params=float_params,
        bn_params=bn_params,
    )

    # A scheme can change the cost of its convolutions.
    scheme = getattr(module, "scheme", None)
    if scheme is None or not has_macs:
        return [row]
    return [scheme.cost(row, module)]


def _own_parameters(module: nn.Module) -> dict:
    """{name: parameter} of a module, without those of its submodules."""
    params = module.variables.get("params", {})
    # The parameters of a submodule are a dictionary, which has no shape.
    return {name: value for name, value in params.items() if hasattr(value, "shape")}


def _check_no_kernels(arrays: dict, *, name: str, kind: str) -> None:
    """Raises `UserError` for a module without `macs` that has kernels."""
    # Vectors are biases or belong to a BN, and have no multiply-accumulates.
    if any(value.ndim > 1 for value in arrays.values()):
        raise UserError(
            f"{name} ({kind}) has kernels but no method macs(x, y), so that its cost "
            "is not known; add one that gives its (binary, float) multiply-accumulates"
        )


def _numbers_of(arrays: dict) -> tuple[int, int]:
    """(binary, float) parameters: latent weights become one bit, others stay float."""
    binary = floats = 0
    for name, value in arrays.items():
        if is_latent(name):
            binary += value.size
        else:
            floats += value.size
    return binary, floats
