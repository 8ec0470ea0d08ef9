"""The layer types of Table 3 and the few float layers around them. Images are NHWC, kernels HWIO."""

import dataclasses
import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bnas_jax.core import binarize
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import ZEROISE
from bnas_jax.core.hold import hold
from bnas_jax.core.popcount import sums_of_signs
from bnas_jax.core.rules import Rules

BN_EPSILON = 1e-5
BN_MOMENTUM = 0.9  # PyTorch's 0.1, counted from the other side
MIN_COUNTED = 8  # channels: fewer do not fill the words that are counted
MAX_COUNTED = 4096  # signs in a sum: the words are all written out to be compiled, which took 40 s for 40,000


def uniform_fan_in(key, shape, dtype):
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default for convolutions and linear layers."""
    bound = 1 / np.sqrt(np.prod(shape[:-1]))
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def bias_init(fan_in: int):
    """Initialiser U(-1/sqrt(fan_in), 1/sqrt(fan_in)) of a bias."""
    bound = 1 / np.sqrt(fan_in)
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


def conv(x, kernel, *, stride=1, padding=0, dilation=1, groups=1, dtype=None):
    """2-D convolution with explicit symmetric zero padding ("SAME" pads differently at stride 2).

    x: (N, H, W, C); kernel: (kh, kw, C / groups, O). dtype: arithmetic of the products; the result has x's.
    """
    if dtype is None:
        return _conv(x, kernel, stride, padding, dilation, groups)
    return _conv(x.astype(dtype), kernel.astype(dtype), stride, padding, dilation, groups).astype(x.dtype)


def binary_conv(x, latent, rules: Rules, *, stride=1, padding=0, dilation=1, groups=1, of_signs=False):
    """The convolution of x with `binarize_weights(latent)`; its gradients are those of this composition.

    Forward, the signs are multiplied first and beta afterwards, so that sums of +-1 are exact integers, in bfloat16, too. A sum
    that is 0 then is 0 for every order of summation, and ReLU's gradient there does not hang on rounding: with beta inside
    the sum one in ten outputs of a 3x3 convolution of 6 channels is 0 but for rounding.
    of_signs: x holds nothing but signs, so that the sums can be counted.
    """
    return _binary_conv(x, latent, rules, (stride, padding, dilation, groups), of_signs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _binary_conv(x, latent, rules, geometry, of_signs):
    sums = _sums_of_signs(x, latent, rules, geometry) if of_signs else _sums(x, latent, rules, geometry)
    return sums.astype(x.dtype) * binarize.weight_scale(latent)


def _sums(x, latent, rules, geometry):
    """The convolution of x with the signs of `latent`."""
    dtype = rules.conv_dtype or x.dtype
    signs = binarize.sign(latent, rules.sign_of_zero).astype(dtype)
    stride, padding, dilation, groups = geometry
    return _conv(x.astype(dtype), signs, stride, padding, dilation, groups, accumulate=x.dtype)


def _sums_of_signs(x, latent, rules, geometry):
    """`_sums` where x holds signs: small integers, of two bytes each where they fit, written to memory once."""
    dtype = jnp.int16 if np.prod(latent.shape[:3]) <= np.iinfo(np.int16).max else jnp.int32
    convolved = lambda x, latent: _sums(x, latent, rules, geometry).astype(dtype)
    if not can_count(latent, rules, geometry):
        return convolved(x, latent)
    stride, padding, dilation, _ = geometry
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    # Held, or XLA would count again for all who read the sums.
    counted = lambda x, latent: hold(sums_of_signs(x, latent, **options).astype(dtype))
    return jax.lax.platform_dependent(x, latent, cpu=counted, default=convolved)


def can_count(latent, rules: Rules, geometry) -> bool:
    """Whether one bit holds a sign, and the words to count are full and not too many."""
    groups = geometry[-1]
    fits = latent.shape[2] >= MIN_COUNTED and np.prod(latent.shape[:3]) <= MAX_COUNTED
    return fits and groups == 1 and rules.sign_of_zero == 1


def _binary_conv_forward(x, latent, rules, geometry, of_signs):
    return _binary_conv(x, latent, rules, geometry, of_signs), (x, latent)


def _binary_conv_backward(rules, geometry, of_signs, residuals, gradient):
    del of_signs

    def composed(x, latent):
        kernel = binarize.binarize_weights(latent, rules.weight_gradient, rules.sign_of_zero)
        return _conv(x.astype(gradient.dtype), kernel.astype(gradient.dtype), *geometry)

    gradient = gradient.astype(rules.conv_dtype or gradient.dtype)
    return jax.vjp(composed, *residuals)[1](gradient)


_binary_conv.defvjp(_binary_conv_forward, _binary_conv_backward)


def weighted_edges(y, scale, weights, rules: Rules):
    """What edges of a mixture make of their convolutions, side by side in y: times K, ReLU, times each edge's weight.

    y: (N, H, W, E * C); scale: K, (N, H, W, 1 or E, 1), or None; weights: (E,). Returns (N, H, W, E, C).
    """
    y = y.reshape(*y.shape[:3], len(weights), -1)
    if scale is not None:
        y = y * scale
    return (nn.relu(y) if rules.relu else y) * weights[:, None]


def weighted_binary_conv(x, latent, scale, weights, rules: Rules, *, stride=1, padding=0, dilation=1, groups=1):
    """`weighted_edges` of `binary_conv(x, latent)`, x of signs. No gradient flows to `scale`.

    For its gradient it keeps the sums of signs, which are small integers, in two bytes each. Differentiated step by step, XLA
    keeps three arrays of floats of that size: 3.4 GB for a search step of the paper's size, where this takes 1.9.
    """
    return _weighted_binary_conv(x, latent, scale, weights, rules, (stride, padding, dilation, groups))


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _weighted_binary_conv(x, latent, scale, weights, rules, geometry):
    return weighted_edges(_binary_conv(x, latent, rules, geometry, True), scale, weights, rules)


def _weighted_binary_conv_forward(x, latent, scale, weights, rules, geometry):
    sums, beta = _sums_of_signs(x, latent, rules, geometry), binarize.weight_scale(latent)
    y = weighted_edges(sums.astype(x.dtype) * beta, scale, weights, rules)
    return y, (x, latent, sums, beta, scale, weights)


def _weighted_binary_conv_backward(rules, geometry, residuals, gradient):
    x, latent, sums, beta, scale, weights = residuals
    # Else XLA would make floats of the sums in the forward pass, and keep those.
    gradient, sums = hold((gradient, sums))
    edges = lambda y, weights: weighted_edges(y, scale, weights, rules)
    to_y, to_weights = jax.vjp(edges, sums.astype(gradient.dtype) * beta, weights)[1](gradient)
    to_x, to_latent = _binary_conv_backward(rules, geometry, True, (x, latent), to_y)
    return to_x, to_latent, jax.tree.map(jnp.zeros_like, scale), to_weights


_weighted_binary_conv.defvjp(_weighted_binary_conv_forward, _weighted_binary_conv_backward)


def _conv(x, kernel, stride, padding, dilation, groups, accumulate=None):
    if kernel.shape[:2] == (1, 1) and stride == 1 and padding == 0 and groups == 1:
        # A matrix product is 3 to 5 times faster than the convolution on CPU.
        return jnp.einsum("nhwi,io->nhwo", x, kernel[0, 0], preferred_element_type=accumulate)
    if stride > 1 and dilation % stride == 0 and padding % stride == 0:
        # Such a kernel meets every stride-th pixel alone. Its gradient at the inputs takes a quarter of the time on CPU.
        x = x[:, ::stride, ::stride]
        stride, padding, dilation = 1, padding // stride, dilation // stride
    return general_conv(x, kernel, stride, padding, dilation, groups, accumulate)


def general_conv(x, kernel, stride, padding, dilation, groups, accumulate=None):
    """XLA's convolution as it is. accumulate: type of the result, None is x's."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=[(padding, padding)] * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        preferred_element_type=accumulate,
    )


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
    the same state, share the batch's in training; in evaluation the result is (N, H, W, *copies, C).
    """
    if not train:
        x = x.reshape(x.shape[:-1] + (1,) * (running["mean"].ndim - 1) + x.shape[-1:])
        return (x - running["mean"]) * jax.lax.rsqrt(running["var"] + BN_EPSILON), running
    y, mean, var = normalize(x, rules.bn_axis)
    count = x.size // x.shape[-1] * (jax.lax.axis_size(rules.bn_axis) if rules.bn_axis else 1)
    batch = {"mean": mean, "var": var * (count / max(count - 1, 1))}
    return y, {name: BN_MOMENTUM * running[name] + (1 - BN_MOMENTUM) * batch[name] for name in running}


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def normalize(x, axis_name: str | None = None):
    """(x - mean) / sqrt(var + epsilon), mean and var of the batch, over all devices of `axis_name`. x: (N, H, W, C).

    The gradient is the closed form, which keeps the result alone and sums twice where differentiating the steps keeps more
    and sums four times; mean and var, (C,), are for the running statistics and have none.
    """
    return _normalize_forward(x, axis_name)[0]


def _normalize_forward(x, axis_name):
    mean, var = _moments(x, axis_name)
    factor = jax.lax.rsqrt(var + BN_EPSILON)
    y = (x - mean) * factor
    return (y, mean, var), (y, factor)


def _moments(x, axis_name):
    mean = jnp.mean(x, axis=(0, 1, 2))
    var = jnp.mean(jnp.square(x - mean), axis=(0, 1, 2))
    if not axis_name:
        return mean, var
    # In one message, as latency is what small ones cost: the mean of all squares is that of each device's.
    mean, square = jax.lax.pmean(jnp.stack([mean, var + jnp.square(mean)]), axis_name)
    return mean, jnp.maximum(square - jnp.square(mean), 0)


def _normalize_backward(axis_name, residuals, gradients):
    y, factor = residuals
    gradient = gradients[0]
    sums = [jnp.mean(gradient, axis=(0, 1, 2)), jnp.mean(gradient * y, axis=(0, 1, 2))]
    mean, along = jax.lax.pmean(jnp.stack(sums), axis_name) if axis_name else sums
    return (factor * (gradient - mean - y * along),)


normalize.defvjp(_normalize_forward, _normalize_backward)


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
