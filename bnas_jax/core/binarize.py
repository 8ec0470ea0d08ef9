"""The sign of activations and weights, and the gradients that stand in for its own (XNOR-Net, arXiv 1603.05279).

Gradients are named where published code disagrees about them; `bnas` is the chain rule of sign times scale and the default.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

# Gradient at the latent weights from the one at the binary weights: (latent, its signs, scale, gradient) -> gradient.
WeightGradient = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]

_KERNEL_AXES = (0, 1, 2)  # of HWIO: all but the output channel


def sign(x: jax.Array, sign_of_zero: int = 1) -> jax.Array:
    """-1 or 1 in x's dtype; the sign of 0 is `sign_of_zero` (1: the paper's single bit, 0: PyTorch's)."""
    if sign_of_zero == 0:
        return jnp.sign(x)
    return jnp.where(x >= 0, jnp.ones((), x.dtype), -jnp.ones((), x.dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def binarize_activations(x: jax.Array, sign_of_zero: int = 1) -> jax.Array:
    """Forward sign(x); backward the straight-through estimator g * 1[|x| < 1] (XNOR-Net section 3.2; BinaryNet Eq. 4)."""
    return sign(x, sign_of_zero)


def _activations_forward(x, sign_of_zero):
    # x is kept anyway, for the gradient of the batch normalization that it comes from.
    return sign(x, sign_of_zero), x


def _activations_backward(sign_of_zero, x, gradient):
    return (jnp.where(jnp.abs(x) < 1, gradient, jnp.zeros((), gradient.dtype)),)


binarize_activations.defvjp(_activations_forward, _activations_backward)


def weight_scale(latent: jax.Array) -> jax.Array:
    """beta = mean |W| for each output channel (Eq. 1). latent: HWIO; returns (O,)."""
    return jnp.mean(jnp.abs(latent), axis=_KERNEL_AXES)


def _bnas_gradient(latent, signs, scale, gradient):
    # |W| has gradient 0 at 0, whatever the sign there.
    through_scale = jnp.sign(latent) * jnp.mean(signs * gradient, axis=_KERNEL_AXES)
    return scale * (jnp.abs(latent) <= 1) * gradient + through_scale


def _xnor_gradient(latent, signs, scale, gradient):
    del signs
    size = latent.size // latent.shape[-1]
    return gradient * (scale * (jnp.abs(latent) < 1) + 1 / size)


WEIGHT_GRADIENTS: dict[str, WeightGradient] = {
    # The chain rule through both sign (straight through) and scale; the BNAS release.
    "bnas": _bnas_gradient,
    # As printed in XNOR-Net section 3.1, and as its Torch code has it: the same, but for `scaled_by_fan_in`.
    "paper": _xnor_gradient,
    "allenai": _xnor_gradient,
}
# Rules whose code multiplies the gradient by `gradient_factor`; the optimizer does so here.
SCALED_GRADIENTS = ("bnas", "allenai")


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def binarize_weights(latent: jax.Array, rule: str = "bnas", sign_of_zero: int = 1) -> jax.Array:
    """Forward beta * sign(W) (Eq. 1), one beta for each output channel; backward `WEIGHT_GRADIENTS[rule]`.

    latent: projected latent weights, HWIO. The rules `bnas` and `allenai` are completed by `gradient_factor`, which the
    optimizer multiplies in.
    """
    return weight_scale(latent) * sign(latent, sign_of_zero)


def _weights_forward(latent, rule, sign_of_zero):
    return binarize_weights(latent, rule, sign_of_zero), latent


def _weights_backward(rule, sign_of_zero, latent, gradient):
    return (WEIGHT_GRADIENTS[rule](latent, sign(latent, sign_of_zero), weight_scale(latent), gradient),)


binarize_weights.defvjp(_weights_forward, _weights_backward)


def project(latent: jax.Array, depthwise_center: bool = False) -> jax.Array:
    """Latent weights, mean-centred over the input channels of each tap and clipped to [-1, 1]. latent: HWIO.

    One input channel, as in a depthwise kernel, is its own mean, and centring leaves 0 of it: a dead kernel, whose
    `gradient_factor` is 0, too. With `depthwise_center` that happens (methods.md A2, Trap); by default both are left out.
    """
    if latent.shape[2] > 1 or depthwise_center:
        latent = latent - jnp.mean(latent, axis=2, keepdims=True)
    return jnp.clip(latent, -1, 1)


def gradient_factor(shape: tuple[int, ...], depthwise_center: bool = False) -> float:
    """c = (1 - 1/ci) * n of the XNOR-Net and BNAS codes, n = kh * kw * ci, for an HWIO kernel's shape.

    depthwise_center: see `project`; without it c is 1 for one input channel.
    """
    kh, kw, ci, _ = shape
    if ci == 1 and not depthwise_center:
        return 1.0
    return (1 - 1 / ci) * kh * kw * ci


def activation_scale(x: jax.Array, kernel: int, stride: int, padding: int, dilation: int) -> jax.Array:
    """K of Eq. (1): the mean magnitude of the inputs under the kernel, borders counting as 0. No gradient (methods: sg(K)).

    x: (N, H, W, ..., C); returns (N, H', W', ..., 1).
    """
    magnitude = jnp.mean(jnp.abs(jax.lax.stop_gradient(x)), axis=-1, keepdims=True)
    spatial = lambda inside, outside: (outside, inside, inside) + (outside,) * (x.ndim - 3)
    total = jax.lax.reduce_window(
        magnitude,
        np.zeros((), x.dtype)[()],
        jax.lax.add,
        window_dimensions=spatial(kernel, 1),
        window_strides=spatial(stride, 1),
        padding=spatial((padding, padding), (0, 0)),
        window_dilation=spatial(dilation, 1),
    )
    return total / kernel**2
