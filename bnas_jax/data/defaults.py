"""The defaults of each data set: how it is read, normalised and augmented.

Settings of `config.dataset` override them.
"""

import dataclasses
from collections.abc import Callable

from bnas_jax.core.errors import UserError
from bnas_jax.data.augment import Augmentation
from bnas_jax.data.readers.encoded import ReadOptions
from bnas_jax.data.statistics import Statistics

# The default of `in_memory_mib`: 25 times the size of CIFAR.
_IN_MEMORY_MIB = 4096
# Mean and standard deviation of the 1,437 training images, on the scale 0 to 1.
_DIGITS = Augmentation(mean=(0.3054,), std=(0.376,), scale=1 / 16)
CIFAR10 = Augmentation(
    mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616), pad=4, flip=True
)
# As in the release. Training: random resized crop, flip, colour jitter. Evaluation: the
# shorter side is resized to 256, and the centre of 224 pixels is taken.
_IMAGENET = Augmentation(
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    flip=True,
    min_area=0.08,
    jitter=(0.4, 0.4, 0.4, 0.2),
)
_IMAGENET_OPTIONS = {"image_size": 224, "in_memory_mib": 0, "channels": 3}
_IMAGENET_ZOOM = 256 / 224
# Sets whose statistics are known, so that they need not be measured.
_KNOWN = {"digits": _DIGITS, "cifar10": CIFAR10, "imagenet2012": _IMAGENET}
# Sets with a usual augmentation. Other sets are not augmented (`_PLAIN`): their labels
# may not be the same for a crop or a mirror image.
_AUGMENTED = _KNOWN | {"cifar100": CIFAR10}
_PLAIN = Augmentation(mean=(0.0,), std=(1.0,))


def with_defaults(name: str, options: ReadOptions) -> ReadOptions:
    """The options, in which the defaults of a data set replace None.

    Raises `UserError` where `resize` is smaller than `image_size`.
    """
    # ImageNet as in the release: the shorter side becomes 256 pixels, and the centre of
    # 224 is taken. For another size, `resize` is larger by the same factor.
    if name == "imagenet2012":
        options = _with_defaults(options, _IMAGENET_OPTIONS)
        size = options.image_size or 1
        options = _with_defaults(options, {"resize": round(size * _IMAGENET_ZOOM)})
        if (options.resize or 1) < size:
            raise UserError(
                f"config.dataset.resize must be at least {size}, its centre, got "
                f"{options.resize}"
            )
    return _with_defaults(options, {"in_memory_mib": _IN_MEMORY_MIB})


def known_statistics(name: str) -> Statistics | None:
    """The (mean, std) of a data set in `_KNOWN`, else None."""
    known = _KNOWN.get(name)
    if known is None:
        return None
    return known.mean, known.std


def white(name: str) -> float:
    """The value of white in a data set's arrays: 16 for the digits, else 255."""
    if name in _KNOWN:
        return round(1 / _KNOWN[name].scale)
    return 255


def augmentation(
    name: str,
    channels: int,
    given: Statistics | None,
    measure: Callable[[], Statistics],
) -> Augmentation:
    """A set's default augmentation, with the statistics to normalise by.

    given: the statistics to use; None takes the set's own.
    measure: () -> the set's own statistics; called where they are not known.
    """
    # The known statistics do not hold for colour images that are read as gray ones.
    known = known_statistics(name)
    if given is None and known is not None and len(known[0]) == channels:
        given = known
    mean, std = given or measure()
    return dataclasses.replace(_AUGMENTED.get(name, _PLAIN), mean=mean, std=std)


def _with_defaults(options: ReadOptions, values: dict) -> ReadOptions:
    """The options, in which these values replace None."""
    missing = {}
    for name, value in values.items():
        if getattr(options, name) is None:
            missing[name] = value
    return dataclasses.replace(options, **missing)
