"""XNOR-Net, "Sign + Scale" (arXiv 1603.05279), the scheme of BNAS (section 4.1.1).

Eq. (1): sign(x) * sign(W), scaled by beta and K.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from bnas_jax.core.checks import choice
from bnas_jax.core.ops.geometry import Geometry, Pair
from bnas_jax.core.schemes.latent_rule import LatentRule
from bnas_jax.core.schemes.scales import inverse, kernel_scale
from bnas_jax.core.schemes.scheme import Scheme
from bnas_jax.core.schemes.straight_through import closed_clip, sign, straight_through

KERNEL_AXES = (0, 1, 2)  # of (kh, kw, ci, co): all but the output channel

WEIGHT_GRADIENTS = ("bnas", "paper", "allenai")
# The rules whose published code multiplies the gradient by `gradient_factor`. Here the
# optimizer multiplies by it.
SCALED_GRADIENTS = ("bnas", "allenai")


@dataclasses.dataclass(frozen=True)
class Xnor(Scheme):
    """y = K * beta * conv(sign x, sign W) (section 4.1.1, Eq. 1).

    (N, H, W, C) with W (kh, kw, ci, co) to (N, H', W', co). beta = mean |W| of each
    output channel; K is the mean magnitude of the inputs under the kernel. After each
    update W is centred over the input channels and clipped to [-1, 1].

    weight_gradient: the rule for the gradient with respect to the latent weights W.
    With G the gradient with respect to beta * sign(W), n = kh * kw * ci, and the mean
    over the kernel of an output channel:

    - `bnas`: c * (beta * 1[|W| <= 1] * G + sign(W) * mean(sign(W) * G)), the chain rule
      times c, as in the BNAS release (docs/schemes.md).
    - `paper`: G * (beta * 1[|W| < 1] + 1 / n), as printed in XNOR-Net section 3.1,
      without c.
    - `allenai`: the rule `paper` times c, as in XNOR-Net's Torch code.

    c = (1 - 1 / ci) * n, or 1 for depthwise kernels that are not centred. The optimizer
    multiplies by c (`latents`): `jax.grad` gives these rules without it. The rules
    differ from the formulas in two cases. The sign before the mean is 0 where W is 0,
    as the slope of |W| is in PyTorch; and for a kernel of zeros, where beta is 0,
    `paper` and `allenai` give 0.

    activation_scale: multiply by K. No gradient flows through K.
    depthwise_center: centre kernels of a single input channel, too, as the published
        code does. That makes them zero, so that they never learn (docs/schemes.md).

    >>> kernel = jax.numpy.array([0.5, -0.25]).reshape(1, 1, 2, 1)
    >>> signs, (beta,) = bnas.Xnor().weights(kernel)
    >>> signs.ravel().tolist(), beta.tolist()
    ([1.0, -1.0], [0.375])
    """

    # The defaults follow the paper; `core.conventions` has the values of the release.
    weight_gradient: str = "bnas"
    activation_scale: bool = True
    depthwise_center: bool = False

    def __post_init__(self):
        super().__post_init__()
        choice(
            "config.scheme.weight_gradient",
            self.weight_gradient,
            choices=WEIGHT_GRADIENTS,
        )

    @property
    def latents(self) -> LatentRule:
        # The factor c and the projection of W.
        factor, project = factor_of_centred, center_and_clip_unless_depthwise
        if self.depthwise_center:
            factor, project = gradient_factor, center_and_clip
        if self.weight_gradient not in SCALED_GRADIENTS:
            return LatentRule(project=project)
        return LatentRule(factor=factor, project=project)

    def always_zero(self, shape: tuple[int, ...]) -> bool:
        return self.depthwise_center and shape[2] == 1

    def weights(self, latent):
        # `bnas` is the chain rule: the first term is the gradient through the signs,
        # beta * 1[|W| <= 1] * G, the second that through beta.
        if self.weight_gradient == "bnas":
            signs = straight_through(
                latent, window=closed_clip, sign_of_zero=self.sign_of_zero
            )
            return signs, (beta(latent),)

        # `paper` and `allenai` have a custom gradient.
        signs, scale = _signs_and_beta(latent, self.sign_of_zero)
        return signs, (scale,)

    def after(self, sums, beta):
        return sums * beta

    def input_scale(self, x, kernel: Pair, geometry: Geometry):
        if not self.activation_scale:
            return None
        # One K for each group, from the channels that the group reads.
        if geometry.groups > 1:
            # (N, H, W, groups, C / groups)
            x = x.reshape(*x.shape[:3], geometry.groups, -1)
        return mean_magnitude(x, kernel=kernel, geometry=geometry)


def beta(latent):
    """beta = mean |W| of each output channel (Eq. 1): (kh, kw, ci, co) to (co,)."""
    return kernel_scale(latent, axes=KERNEL_AXES)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _signs_and_beta(latent, sign_of_zero: int):
    """(signs, beta) with the gradient of the rules `paper` and `allenai`."""
    return sign(latent, sign_of_zero), beta(latent)


def _forward(latent, sign_of_zero):
    signs, scale = _signs_and_beta(latent, sign_of_zero)
    return (signs, scale), (latent, scale)


def _backward(sign_of_zero, residuals, gradients):
    del sign_of_zero
    latent, scale = residuals
    # The gradient with respect to the signs is beta * G, as `after` multiplies the sums
    # by beta. The gradient with respect to beta is not used.
    at_signs = gradients[0]  # beta * G, (kh, kw, ci, co)
    at_binary = at_signs * inverse(scale)  # G

    # G * (beta * 1[|W| < 1] + 1 / n), with n = kh * kw * ci (XNOR-Net section 3.1).
    size = latent.size // latent.shape[-1]
    return (at_signs * (jnp.abs(latent) < 1) + at_binary / size,)


_signs_and_beta.defvjp(_forward, _backward)


def center_and_clip(latent):
    """Latent weights centred over the input channels and clipped to [-1, 1].

    Each tap of each output channel has a mean of its own.

    latent: (kh, kw, ci, co).
    """
    centred = latent - jnp.mean(latent, axis=2, keepdims=True)
    return jnp.clip(centred, min=-1, max=1)


def center_and_clip_unless_depthwise(latent):
    """`center_and_clip`, but kernels of a single input channel are only clipped.

    Centring would make them zero.
    """
    if latent.shape[2] == 1:
        return jnp.clip(latent, min=-1, max=1)
    return center_and_clip(latent)


def gradient_factor(shape: tuple[int, ...]) -> float:
    """c = (1 - 1 / ci) * n of the XNOR-Net and BNAS codes, with n = kh * kw * ci.

    shape: (kh, kw, ci, co) of the kernel.
    """
    kh, kw, ci, _ = shape
    return (1 - 1 / ci) * kh * kw * ci


def factor_of_centred(shape: tuple[int, ...]) -> float:
    """`gradient_factor`, or 1 for kernels of a single input channel.

    These are not centred, and `gradient_factor` would be 0.
    """
    if shape[2] == 1:
        return 1.0
    return gradient_factor(shape)


def mean_magnitude(x, kernel: Pair, geometry: Geometry):
    """K of Eq. (1): the mean magnitude of the inputs under the kernel.

    The zero padding counts as 0. No gradient flows through K. Returns (N, H', W', ...,
    1).

    x: (N, H, W, ..., C).
    kernel: (rows, columns).
    """
    # First the mean over the channels, so that the window sums a single channel:
    # (N, H, W, ..., 1).
    magnitude = jnp.mean(jnp.abs(jax.lax.stop_gradient(x)), axis=-1, keepdims=True)

    # The sum under the kernel: (N, H', W', ..., 1).
    rows, columns = geometry.padding
    rest = x.ndim - 3
    ones = (1,) * rest
    # A NumPy 0, from which JAX sees that this is a sum, which it can differentiate.
    zero = np.zeros((), x.dtype)[()]
    total = jax.lax.reduce_window(
        magnitude,
        zero,
        jax.lax.add,
        window_dimensions=(1, *kernel, *ones),
        window_strides=(1, *geometry.stride, *ones),
        padding=((0, 0), (rows, rows), (columns, columns)) + ((0, 0),) * rest,
        window_dilation=(1, *geometry.dilation, *ones),
    )
    return total / (kernel[0] * kernel[1])
