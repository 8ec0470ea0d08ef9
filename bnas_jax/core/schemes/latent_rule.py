"""`LatentRule`: what a scheme makes the optimizer do to latent weights."""

import dataclasses
from collections.abc import Callable, Mapping

import jax


@dataclasses.dataclass(frozen=True)
class LatentRule:
    """What the optimizer does to latent weights. A part that is None is left out.

    factor: (shape (kh, kw, ci, co) of a latent kernel) -> the number that multiplies
        the kernel's gradient, before weight decay.
    project: (latent weights) -> the latent weights that replace them, at the start and
        after each update.
    gradients: (params, gradients, learning rate) -> the gradients for the optimizer, in
        closed form. params and gradients are dicts by name, of a module that has latent
        weights.
    rates: {name of another parameter of such a module: its learning rate relative to
        that of all other parameters}.

    The factor of XNOR-Net for a 3x3 kernel with 64 input channels, and a rule that only
    clips:

    >>> bnas.Xnor().latents.factor((3, 3, 64, 64))
    567.0
    >>> rule = bnas.LatentRule(project=lambda latent: latent.clip(-1, 1))
    """

    factor: Callable[[tuple[int, ...]], float] | None = None
    project: Callable[[jax.Array], jax.Array] | None = None
    gradients: Callable[[Mapping, Mapping, jax.Array], Mapping] | None = None
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
