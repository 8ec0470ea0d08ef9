"""What the optimizer does to latent weights, as a scheme says it: `LatentRule`."""

import dataclasses
from collections.abc import Callable, Mapping

import jax


@dataclasses.dataclass(frozen=True)
class LatentRule:
    """What the optimizer does to latent weights. A part that is None is left out.

    factor: a function of a latent kernel's shape (kh, kw, ci, co); its result
        multiplies the kernel's gradient, before weight decay.
    project: a function of latent weights, which they are replaced by at the start and
        after each update.
    gradients: a function of the parameters of a module that has latent weights, of
        their gradients, and of the learning rate. It returns the gradients that the
        optimizer is given. Parameters and gradients are dicts by name.
    rates: learning rates of further parameters of such a module, by name, in units of
        the learning rate of the others.

    The factor of XNOR-Net for a kernel of 3x3 with 64 inputs, and a rule that clips
    alone:

    >>> bnas.Xnor().latents.factor((3, 3, 64, 64))
    567.0
    >>> rule = bnas.LatentRule(project=lambda latent: latent.clip(-1, 1))
    """

    factor: Callable[[tuple[int, ...]], float] | None = None
    project: Callable[[jax.Array], jax.Array] | None = None
    gradients: Callable[[Mapping, Mapping, jax.Array], Mapping] | None = None
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
