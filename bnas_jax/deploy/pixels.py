"""From pixels to logits: the network behind the normalisation of its training."""

from collections.abc import Callable

import flax.linen as nn
import jax

from bnas_jax.core.errors import UserError
from bnas_jax.data.augment import Augmentation, normalize
from bnas_jax.data.facts import Facts


def logits_of_pixels(
    model: nn.Module, facts: Facts, *, white: float, source: str
) -> Callable[[dict, jax.Array], jax.Array]:
    """The function (variables, pixels (N, H, W, C), uint8) -> logits (N, classes).

    Raises `UserError` for a network that does not say how pixels are normalised.

    facts: about the data that the network was trained on.
    white: the number that is white among the pixels.
    source: the file or work directory of the network, for the message.
    """
    if facts.statistics is None:
        raise UserError(
            f"{source} does not say how pixels are normalised; write "
            '"mean" and "std" into the run.json of its run, and export it again'
        )
    mean, std = facts.statistics
    augmentation = Augmentation(mean, std, scale=1 / white)

    def logits_of(variables, pixels):
        images = normalize(pixels, augmentation, model.arithmetic.dtype)
        return model.apply(variables, images, train=False)

    return logits_of
