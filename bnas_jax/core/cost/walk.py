"""Counting a model by walking it: under `jax.eval_shape` each module with weights gives its row."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from bnas_jax.core.cell import FinalCell
from bnas_jax.core.cost.counts import Cost, Row
from bnas_jax.core.errors import UserError
from bnas_jax.core.layers import is_latent
from bnas_jax.core.modules import BatchNorm
from bnas_jax.core.schemes import Float
from bnas_jax.core.supernet import MixedCell, Supernet


def cost(
    model: nn.Module, *, image_shape: tuple[int, int, int], walked: dict | None = None
) -> Cost:
    """The cost of one image of the shape (H, W, C) through a network or a supernet, without computing anything.

    A module is counted if it has parameters or a method `macs(x, y)`, which gives its (binary, float) multiply-accumulates
    from its input and output. Parameters of names that begin with `latent` are one bit, all others 32.

    walked: cells that were walked before, of networks of the same scheme, which are not walked again; it is added to.

    Raises `UserError` for an image size that the model cannot take, and for a module that has kernels but no `macs`.

    >>> genotype = bnas.load_genotype("latest_cell")
    >>> network = bnas.Network(genotype, num_cells=5, channels=8, num_classes=10)
    >>> bnas.cost(network, image_shape=(8, 8, 1)).total.params
    209940
    """
    # An auxiliary head is of use in training alone.
    if getattr(model, "auxiliary", False):
        model = model.clone(auxiliary=False)
    # Without popcount and gradients of its own an operation is traced faster, and it costs the same.
    model = model.clone(arithmetic=dataclasses.replace(model.arithmetic, plain=True))
    walk = _Walk({} if walked is None else walked)
    with nn.intercept_methods(walk.intercept):
        jax.eval_shape(lambda: _initialise(model, image_shape))
    return Cost(tuple(walk.rows))


def float_twin(model: nn.Module) -> nn.Module:
    """The same model with every convolution float."""
    return model.clone(scheme=Float())


def _initialise(model: nn.Module, image_shape: tuple[int, int, int]):
    images = jnp.zeros((1, *image_shape))
    if isinstance(model, Supernet):
        return model.init(
            jax.random.key(0), model.even_mixture(), images, train=False, method="mixture"
        )
    return model.init(jax.random.key(0), images, train=False)


class _Walk:
    """Collects the rows of the modules that are called. Equal cells are walked once."""

    def __init__(self, cells: dict):
        self.rows: list[Row] = []
        self._cells = cells
        self._called: set[tuple[str, ...]] = set()

    def intercept(self, call, args, kwargs, context: nn.module.InterceptorContext):
        module = context.module
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        if not isinstance(module, FinalCell | MixedCell):
            y = call(*args, **kwargs)
            self.rows += self._rows_of(module, args, y)
            return y
        return self._cell(module, call, args, kwargs)

    def _cell(self, module, call, args, kwargs):
        key = (_fields(module), tuple(leaf.shape for leaf in jax.tree.leaves(args)))
        prefix = "/".join(module.path)
        if key not in self._cells:
            first = len(self.rows)
            y = call(*args, **kwargs)
            self.rows += self._rows_of(module, args, y)
            self._cells[key] = (jax.eval_shape(lambda: y), prefix, self.rows[first:])
            return y
        output, walked, rows = self._cells[key]
        self.rows += [
            dataclasses.replace(row, name=prefix + row.name.removeprefix(walked)) for row in rows
        ]
        return jnp.zeros(output.shape, output.dtype)

    def _rows_of(self, module, args, y) -> list[Row]:
        """The rows of a call; the parameters of a module that was called before are counted already."""
        rows = _rows(module, args, y)
        if module.path in self._called:
            rows = [
                dataclasses.replace(row, binary_params=0, float_params=0, bn_params=0)
                for row in rows
            ]
        self._called.add(module.path)
        return rows


def _fields(module: nn.Module) -> tuple:
    """A cell's fields, with all places behind the first cell, and all skips that are no convolution, taken as one."""
    fields = {}
    for field in dataclasses.fields(module):
        if field.name not in ("parent", "name"):
            fields[field.name] = getattr(module, field.name)
    place = fields["place"]
    fields["place"] = dataclasses.replace(place, index=min(place.index, 1))
    if not place.reduction:
        del fields["reduction_skip"]
    return (type(module), *fields.items())


def _rows(module: nn.Module, args: tuple, y) -> list[Row]:
    """The module's row, if it has weights or MACs of its own."""
    params = module.variables.get("params", {})
    own = {name: value for name, value in params.items() if hasattr(value, "shape")}
    has_macs = hasattr(module, "macs")
    if not own and not has_macs:
        return []

    name = "/".join(module.path) or type(module).__name__
    if not has_macs and any(value.ndim > 1 for value in own.values()):
        raise UserError(
            f"{name} ({type(module).__name__}) has kernels but no method macs(x, y), so that its cost is not known; "
            "add one that gives its (binary, float) multiply-accumulates"
        )
    binary_macs, float_macs = module.macs(args[0], y) if has_macs else (0, 0)
    if not own and not binary_macs and not float_macs:
        return []
    binary = sum(value.size for key, value in own.items() if is_latent(key))
    floats = sum(value.size for value in own.values()) - binary
    row = Row(
        name=name,
        kind=type(module).__name__,
        out_shape=tuple(jax.tree.leaves(y)[0].shape[1:]),
        binary_macs=int(binary_macs),
        float_macs=int(float_macs),
        binary_params=binary,
        float_params=floats,
        bn_params=floats if isinstance(module, BatchNorm) else 0,
    )
    scheme = getattr(module, "scheme", None)
    if scheme is None or not has_macs:
        return [row]
    return [scheme.cost(row)]
