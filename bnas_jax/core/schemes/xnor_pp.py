"""XNOR-Net++ (arXiv 1909.13863): a learned scale Gamma in place of beta and K."""

import dataclasses
import math
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from bnas_jax.core.checks import choice
from bnas_jax.core.errors import UserError
from bnas_jax.core.schemes.binary_conv import finish, float_weight_conv
from bnas_jax.core.schemes.scheme import Scheme
from bnas_jax.core.schemes.straight_through import (
    closed_clip,
    open_clip,
    straight_through,
)
from bnas_jax.core.schemes.xnor import beta

# {case of section 3.2: {factor of Gamma: its axes, of an output (H', W', co)}}.
CASES: dict[int, dict[str, tuple[int, ...]]] = {
    1: {"alpha": (2,)},
    2: {"alpha": (0, 1, 2)},
    3: {"alpha": (2,), "beta": (0, 1)},
    4: {"alpha": (2,), "beta": (0,), "gamma": (1,)},
}


@dataclasses.dataclass(frozen=True)
class XnorPlusPlus(Scheme):
    """y = Gamma * conv(sign x, sign W), with a learned Gamma.

    (N, H, W, C) with W (kh, kw, ci, co) to (N, H', W', co). Gamma is learned together
    with the weights, without constraint, and begins at 1 (section 3.2). W is not
    projected.

    case: the form of Gamma, a product of parameters:

    - 1: `alpha` (co,): a scale for each output channel;
    - 2: `alpha` (H', W', co): a scale for each output;
    - 3: `alpha` (co,) times `beta` (H', W');
    - 4: `alpha` (co,) times `beta` (H',) times `gamma` (W',), the paper's best.

    In cases 2 to 4, a trained network takes images of one size only.

    closed_window: the gradient passes through the signs where |x| <= 1 and |W| <= 1, as
        in the benchmark BiBench; False is |x| < 1 and |W| < 1, as in the author's
        library.
    center: binarize W minus its mean over the input channels of each tap; depthwise
        kernels, of a single input channel, are not centred.
    analytic_scale: multiply by mean |W| of each output channel, too.

    `center` and `analytic_scale` are differentiated; with case 1 they are the recipe of
    the author's library.

    How sure: cases 1 and 2 and the recipe agree with the author's library, case 4 with
    BiBench. No code of case 3 is published; it follows section 3.2. The ReLU is that of
    the other schemes, which is our choice.
    """

    case: int = 4
    center: bool = False
    analytic_scale: bool = False
    closed_window: bool = False

    # Each convolution has a Gamma of its own.
    batches_edges: ClassVar[bool] = False
    float_shortcut: ClassVar[bool] = True

    def __post_init__(self):
        super().__post_init__()
        choice("config.scheme.case", self.case, choices=CASES)

    def signs(self, x):
        return straight_through(x, window=self._window, sign_of_zero=self.sign_of_zero)

    def weights(self, latent):
        # Centring is part of the forward pass, and differentiated. It would make a
        # kernel of a single input channel zero.
        if self.center and latent.shape[2] > 1:
            latent = latent - jnp.mean(latent, axis=2, keepdims=True)
        signs = straight_through(
            latent, window=self._window, sign_of_zero=self.sign_of_zero
        )
        if not self.analytic_scale:
            return signs, ()
        return signs, (beta(latent),)

    def after(self, sums, *scales):
        return sums * math.prod(scales)

    def parameters(self, module, output_shape):
        """The factors of Gamma, whose product is (H', W', co)."""
        sizes = output_shape[1:]  # (H', W', co)
        dtype = module.arithmetic.dtype
        factors = []
        for name, axes in CASES[self.case].items():
            shape = tuple(sizes[axis] for axis in axes)
            _check_shape(module, name=name, shape=shape)
            factor = module.param(name, nn.initializers.ones, shape, dtype)

            # As an array of three axes, which multiplies an output.
            missing = [axis for axis in range(3) if axis not in axes]
            factors.append(jnp.expand_dims(factor, missing))
        return tuple(factors)

    def convolve_float(self, module, x):
        """In the first of two stages, Gamma scales the sums with a float kernel."""
        if not module.binary_input:
            return super().convolve_float(module, x)

        # The convolution without Gamma and without the activation.
        sums = float_weight_conv(
            x,
            module.float_kernel(x),
            scheme=self,
            geometry=module.geometry,
            arithmetic=module.arithmetic,
            binary_input=True,
            activation=False,
        )
        # Then Gamma and the activation.
        gamma = self.parameters(module, module.output_shape(x))
        y = self.after(sums, *gamma)
        return finish(self, y, scale=None, activation=module.activates_sums)

    @property
    def _window(self):
        return closed_clip if self.closed_window else open_clip


def _check_shape(module, *, name: str, shape: tuple[int, ...]) -> None:
    """Raises `UserError` for a factor of Gamma learned with another size of images."""
    if not module.has_variable("params", name):
        return
    found = module.get_variable("params", name).shape
    if found != shape:
        path = "/".join((*module.path, name))
        raise UserError(
            f"{path} was learned for outputs of the size {found}, and these images "
            f"give {shape}; use images of the size that it was trained with, or train "
            "with config.scheme.case=1, which takes any"
        )
