"""The layer types of Table 3 and the few float layers around them. Images are NHWC, kernels HWIO."""

import dataclasses
import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bnas_jax.core import binarize
from bnas_jax.core.convolution import binary_conv, conv
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import ZEROISE
from bnas_jax.core.rules import Rules

BN_EPSILON = 1e-5
BN_MOMENTUM = 0.9  # PyTorch's 0.1, counted from the other side


def uniform_fan_in(key, shape, dtype):
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default for convolutions and linear layers."""
    bound = 1 / np.sqrt(np.prod(shape[:-1]))
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def bias_init(fan_in: int):
    """Initialiser U(-1/sqrt(fan_in), 1/sqrt(fan_in)) of a bias."""
    bound = 1 / np.sqrt(fan_in)
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def max_pool(x, stride):
    """3x3 max pooling, borders padded with -inf. (N, H, W, C) -> (N, ceil(H / stride), ceil(W / stride), C).

    The gradient goes to the first of equal values, row by row, as in PyTorch. One byte says which of the nine it was; XLA's own
    gradient writes four integers for each value on CPU (64x32x32x16, both passes: 47 ms, here 3).
    """
    return _max_pool_forward(x, stride)[0]


def _windows(x, size, stride, fill):
    """The nine values under each window of a size x size output: x, padded by one pixel, shifted."""
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=fill)
    return [x[:, i : i + size[0] : stride, j : j + size[1] : stride] for i in range(3) for j in range(3)]


def _max_pool_forward(x, stride):
    values = _windows(x, x.shape[1:3], stride, -jnp.inf)
    best, tap = values[0], jnp.zeros(values[0].shape, jnp.int8)
    for index, value in enumerate(values[1:], 1):
        better = (value > best) | jnp.isnan(value)
        best, tap = jnp.where(better, value, best), jnp.where(better, jnp.int8(index), tap)
    return best, (tap, x.shape[1:3])


def _max_pool_backward(stride, residuals, gradient):
    tap, size = residuals
    if stride > 1:  # as if the windows between had been there, and had taken nothing
        spread = [(0, 0, 0)] + [(0, s - (n - 1) * stride - 1, stride - 1) for s, n in zip(size, tap.shape[1:3], strict=True)]
        tap = jax.lax.pad(tap, jnp.int8(-1), [*spread, (0, 0, 0)])
        gradient = jax.lax.pad(gradient, jnp.zeros((), gradient.dtype), [*spread, (0, 0, 0)])
    # A pixel is tap k of the window that lies as far to the other side: the windows' order backwards.
    pairs = zip(_windows(tap, size, 1, -1), _windows(gradient, size, 1, 0), strict=True)
    zero = jnp.zeros((), gradient.dtype)
    return (sum(jnp.where(taps == 8 - k, gradients, zero) for k, (taps, gradients) in enumerate(pairs)),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def avg_pool(x, stride):
    """3x3 average pooling over the pixels that exist, as in the released code. Shapes as `max_pool`."""
    return nn.avg_pool(x, (3, 3), (stride, stride), ((1, 1), (1, 1)), count_include_pad=False)


def initial_statistics(shape: tuple[int, ...], dtype) -> dict[str, jax.Array]:
    """Running statistics before the first batch, `shape` (*copies, C) each."""
    return {"mean": jnp.zeros(shape, dtype), "var": jnp.ones(shape, dtype)}


def batch_norm(x, running: dict[str, jax.Array], rules: Rules, train: bool):
    """(x normalised, running statistics after it), as in PyTorch: running variance unbiased, momentum 0.9 of the old value.

    running: {"mean", "var"}, (*copies, C) each. Several copies of one input's, as the released supernet keeps where edges leave
    the same state, share the batch's in training; in evaluation the result is (N, H, W, *copies, C). Over devices the
    statistics are to be averaged afterwards, as a step does: groups of `rules.bn_examples` may lie in one device alone.
    """
    if not train:
        x = x.reshape(x.shape[:-1] + (1,) * (running["mean"].ndim - 1) + x.shape[-1:])
        return (x - running["mean"]) * jax.lax.rsqrt(running["var"] + BN_EPSILON), running
    y, mean, var = normalize(x, rules.bn_axis, rules.bn_examples)
    part, parts_of_group = _division(len(x), rules.bn_axis, rules.bn_examples)
    count = part * parts_of_group * x.shape[1] * x.shape[2]
    batch = {"mean": mean, "var": var * (count / max(count - 1, 1))}
    return y, {name: BN_MOMENTUM * running[name] + (1 - BN_MOMENTUM) * batch[name] for name in running}


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def normalize(x, axis_name: str | None = None, examples: int | None = None):
    """(x normalised, mean, var): (x - mean) / sqrt(var + epsilon), with mean and var of each group of `examples` examples.

    x: (N, H, W, C). Groups follow each other in the batch over all devices of `axis_name`, so that they hold the same examples
    on any number of devices; None is one group of all. mean and var, (C,), are the averages over the groups in which this
    device has examples. `UserError` unless `examples` divides the batch.

    The gradient is the closed form, which keeps the result alone and sums twice where differentiating the steps keeps more
    and sums four times; mean and var are for the running statistics and have none.
    """
    return _normalize_forward(x, axis_name, examples)[0]


def _normalize_forward(x, axis_name, examples):
    part, parts_of_group = _division(len(x), axis_name, examples)
    parts = x.reshape(-1, part, *x.shape[1:])
    # Values are counted from one of them: beside a large mean, float32 has few digits for what deviates from it.
    origin = parts[:, 0, 0, 0]
    shifted = parts - _spread(origin)
    mean = jnp.mean(shifted, axis=(1, 2, 3))
    var = jnp.mean(jnp.square(shifted - _spread(mean)), axis=(1, 2, 3))
    if parts_of_group > 1:
        moments = jnp.stack([origin, mean, var], axis=1)
        mean, var = _combined(origin, _of_group(moments, parts_of_group, axis_name))
    factor = jax.lax.rsqrt(var + BN_EPSILON)
    y = (shifted - _spread(mean)) * _spread(factor)
    averages = jnp.mean(origin + mean, axis=0), jnp.mean(var, axis=0)
    return (y.reshape(x.shape), *averages), (y, factor)


def _normalize_backward(axis_name, examples, residuals, gradients):
    y, factor = residuals
    _, parts_of_group = _division(len(gradients[0]), axis_name, examples)
    gradient = gradients[0].reshape(y.shape)
    mean, along = jnp.mean(gradient, axis=(1, 2, 3)), jnp.mean(gradient * y, axis=(1, 2, 3))
    if parts_of_group > 1:
        sums = _of_group(jnp.stack([mean, along], axis=1), parts_of_group, axis_name)
        mean, along = jnp.unstack(jnp.mean(sums, axis=1), axis=1)
    gradient = _spread(factor) * (gradient - _spread(mean) - y * _spread(along))
    return (gradient.reshape(gradients[0].shape),)


normalize.defvjp(_normalize_forward, _normalize_backward)


def _division(size: int, axis_name: str | None, examples: int | None) -> tuple[int, int]:
    """(examples of a part, parts of a group): a device's `size` examples in parts, each of which lies in a single group."""
    total = size * (jax.lax.axis_size(axis_name) if axis_name else 1)
    group = examples or total
    if total % group:
        raise UserError(f"batch norm over {group} examples: a batch of {total} cannot be divided into such groups")
    part = math.gcd(size, group)
    return part, group // part


def _spread(values):
    """(P, C) -> (P, 1, 1, 1, C), beside parts (P, n, H, W, C)."""
    return values[:, None, None, None]


def _of_group(values, parts_of_group: int, axis_name: str):
    """(P, ...) -> (P, parts of a group, ...): for each of the device's parts, the values of all parts of its group.

    In one message, as latency is what small ones cost.
    """
    groups = jax.lax.all_gather(values, axis_name, tiled=True).reshape(-1, parts_of_group, *values.shape[1:])
    if len(groups) == 1:
        return groups
    own = jax.lax.axis_index(axis_name) * len(values) + jnp.arange(len(values))
    return groups[own // parts_of_group]


def _combined(origin, moments):
    """(mean, var) of groups, (P, C) each, from (origin, mean, var) of their parts, (P, parts of a group, 3, C).

    Means count from an origin, here each part's own. Squares are of differences of means, and none is subtracted.
    """
    origins, means, variances = jnp.unstack(moments, axis=2)
    means = origins - origin[:, None] + means
    mean = jnp.mean(means, axis=1)
    return mean, jnp.mean(variances + jnp.square(means - mean[:, None]), axis=1)


class BatchNorm(nn.Module):
    """`batch_norm` with its running statistics, and affine parameters where wanted."""

    rules: Rules
    affine: bool = True

    @nn.compact
    def __call__(self, x, *, train: bool):
        dtype, channels = self.rules.dtype, x.shape[-1]
        start = initial_statistics((channels,), dtype)
        running = {name: self.variable("batch_stats", name, lambda value=value: value) for name, value in start.items()}
        y, new = batch_norm(x, {name: variable.value for name, variable in running.items()}, self.rules, train)
        if train and not self.is_initializing():
            for name, variable in running.items():
                variable.value = new[name]
        if self.affine:
            y = y * self.param("scale", nn.initializers.ones, (channels,), dtype)
            y = y + self.param("bias", nn.initializers.zeros, (channels,), dtype)
        return y


class Conv(nn.Module):
    """A convolution alone; its latent weights are the parameter `latent` where they are binarized, else `kernel`.

    The optimizer projects parameters of that name (methods.md A2).
    """

    features: int
    kernel: int
    rules: Rules
    stride: int = 1
    dilation: int = 1
    padding: int | None = None  # None keeps the size at stride 1
    binary: bool = True
    bias: bool = False
    of_signs: bool = False  # whether it is given signs

    @nn.compact
    def __call__(self, x):
        rules = self.rules
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        geometry = {
            "stride": self.stride,
            "padding": self.dilation * (self.kernel - 1) // 2 if self.padding is None else self.padding,
            "dilation": self.dilation,
        }
        if self.binary:
            latent = self.param("latent", uniform_fan_in, shape, rules.dtype)
            y = binary_conv(x, latent, rules, **geometry, of_signs=self.of_signs)
        else:
            kernel = self.param("kernel", uniform_fan_in, shape, rules.dtype)
            y = conv(x, kernel, dtype=rules.conv_dtype, **geometry)
        if self.bias:
            y = y + self.param("bias", bias_init(int(np.prod(shape[:-1]))), (self.features,), rules.dtype)
        return y


class BinaryConv(nn.Module):
    """BN -> sign -> convolution (times K) -> ReLU (section 4.1; XNOR-Net's order).

    binary=False keeps float weights behind the binary activations, as the released code does by its index error;
    sign=False keeps the activations float, too, as in the preprocessing convolutions of its search.
    """

    features: int
    kernel: int
    rules: Rules
    stride: int = 1
    dilation: int = 1
    padding: int | None = None
    binary: bool = True
    affine: bool = True
    relu: bool = True
    sign: bool = True

    @nn.compact
    def __call__(self, x, *, train: bool):
        rules = self.rules
        x = BatchNorm(rules, affine=self.affine, name="bn")(x, train=train)
        inputs = binarize.binarize_activations(x, rules.sign_of_zero) if self.sign else x
        padding = self.dilation * (self.kernel - 1) // 2 if self.padding is None else self.padding
        geometry = (self.kernel, self.stride, padding, self.dilation)
        y = Conv(
            self.features, self.kernel, rules, self.stride, self.dilation, padding, self.binary, of_signs=self.sign, name="conv"
        )(inputs)
        if rules.activation_scale and self.sign:
            y = y * binarize.activation_scale(x, *geometry)
        return nn.relu(y) if rules.relu and self.relu else y


@dataclasses.dataclass(frozen=True)
class LayerType:
    """A row of Table 3: either a binary convolution (kernel > 0) or a function of (x, stride) without parameters."""

    kernel: int = 0
    dilation: int = 1
    function: Callable[[jax.Array, int], jax.Array] | None = None

    @property
    def learnable(self) -> bool:
        return self.kernel > 0


LAYERS: dict[str, LayerType] = {
    ZEROISE: LayerType(function=lambda x, stride: jnp.zeros_like(x[:, ::stride, ::stride])),
    "max_pool_3x3": LayerType(function=max_pool),
    "avg_pool_3x3": LayerType(function=avg_pool),
    "bin_conv_3x3": LayerType(kernel=3),
    "bin_conv_5x5": LayerType(kernel=5),
    "bin_dil_conv_3x3": LayerType(kernel=3, dilation=2),
    "bin_dil_conv_5x5": LayerType(kernel=5, dilation=2),
}


def layer_type(name: str) -> LayerType:
    """The entry of `LAYERS`; `UserError` for a type that has no layer here."""
    if name not in LAYERS:
        raise UserError(f"layer type {name!r} has no layer in this version; use a genotype of {', '.join(LAYERS)}")
    return LAYERS[name]


class Layer(nn.Module):
    """One edge of a final cell: the layer type `type_name` of Table 3 at stride 1 or 2."""

    type_name: str
    features: int
    stride: int
    rules: Rules
    binary: bool = True
    affine: bool = True

    @nn.compact
    def __call__(self, x, *, train: bool):
        kind = layer_type(self.type_name)
        if kind.function is not None:
            return kind.function(x, self.stride)
        return BinaryConv(
            self.features, kind.kernel, self.rules, self.stride, kind.dilation, None, self.binary, self.affine, name="op"
        )(x, train=train)
