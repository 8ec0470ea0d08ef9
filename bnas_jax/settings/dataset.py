"""The settings of a run's data, `config.dataset`."""

import dataclasses
from collections.abc import Mapping

from bnas_jax.core.checks import choice, rates, require

SPLITS = ("random", "stratified", "in_order")
# The metadata of a field that only searches have as a setting. If it is not set, the
# convention gives its value.
OF_SEARCH = {"of_search": True}

# Settings without effect on data sets that have test images.
_SPLIT = ("split", "split_seed")
# Settings without effect on data sets that are arrays and not files of images.
_READING = (
    "min_area",
    "image_size",
    "resize",
    "channels",
    "white_level",
    "in_memory_mib",
    "bad_images",
    "workers",
)


# Data set -> the settings of config.dataset that have no effect on it. TFDS has only
# images of 8 bits, whose white level is known.
WITHOUT_EFFECT = {
    "digits": ("path", *_SPLIT, *_READING),
    "cifar10": (*_SPLIT, "white_level"),
    "cifar100": (*_SPLIT, "white_level"),
    "imagenet2012": (*_SPLIT, "white_level"),
    "tfds:": ("white_level",),
    "folder": (),
    "npz": (*_SPLIT, *_READING),
}


def without_effect(name: str) -> tuple[str, ...]:
    """The settings of config.dataset that have no effect on the data set `name`.

    See `WITHOUT_EFFECT`.
    """
    if name.startswith("tfds:"):
        name = "tfds:"
    return WITHOUT_EFFECT.get(name, ())


@dataclasses.dataclass(frozen=True)
class DatasetSettings:
    """The data set of a run, and how its images are read, normalised and augmented.

    None takes the data set's own value. A setting that has no effect on the data set is
    refused, see `WITHOUT_EFFECT`.
    """

    # One of `data.load.NAMES`.
    name: str = "cifar10"
    # The folder that contains the files of the data set, or the file of its arrays.
    path: str | None = None

    # The mean and standard deviation of each channel, on the scale 0 to 1, for
    # normalisation. Set both or none.
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    # The augmentation, see `data.augment.Augmentation`.
    pad: int | None = None
    flip: bool | None = None
    min_area: float | None = None
    jitter: tuple[float, ...] | None = None
    cutout: int | None = None

    # Images are resized or cropped to image_size x image_size pixels.
    image_size: int | None = None
    # Without a random crop, the shorter side is first scaled to `resize` pixels, and
    # the centre is cropped.
    resize: int | None = None
    # 1 for gray images, 3 for colour images.
    channels: int | None = None
    # The value of white in images of more than 8 bits, see `data.readers.images`.
    white_level: float | None = None

    # The share of the images that becomes the test set, for a data set without test
    # images. The draw has a seed of its own, so that all runs are tested on the same
    # images whatever their seed.
    split: float | None = None
    split_seed: int = 0

    # A data set that is larger than this when decoded, in MiB, is streamed.
    in_memory_mib: int | None = None

    # In a search: how the training set is divided between weights and alpha, see
    # `data.halves.split_half`.
    search_split: str = dataclasses.field(default="random", metadata=OF_SEARCH)
    # In a search: whether the images that validate an epoch are augmented, too.
    augment_validation: bool = dataclasses.field(default=False, metadata=OF_SEARCH)

    # An image that cannot be read is an error (`fail`), or is left out (`skip`); then
    # the log has the number of such images.
    bad_images: str = "fail"
    # The number of processes that read a streamed data set; 0 reads with threads.
    workers: int = 0

    def __post_init__(self):
        self._check_effect()

        # Sizes.
        for name in ("pad", "cutout"):
            pixels = getattr(self, name)
            message = f"config.dataset.{name} must be 0 or more pixels, got {pixels}"
            require(pixels is None or pixels >= 0, message)
        self._check_sizes()

        # Choices, shares and statistics.
        choice("config.dataset.channels", self.channels, choices=(None, 1, 3))
        choice("config.dataset.search_split", self.search_split, choices=SPLITS)
        choice("config.dataset.bad_images", self.bad_images, choices=("fail", "skip"))
        message = f"config.dataset.split must be between 0 and 1, got {self.split}"
        require(self.split is None or 0 < self.split < 1, message)
        if self.mean is not None or self.std is not None:
            self._check_statistics(self.mean or (), self.std or ())

        # imagenet2012 has a default image size.
        sized = self.image_size is not None or self.name == "imagenet2012"
        message = "config.dataset.resize needs config.dataset.image_size, its centre"
        require(self.resize is None or sized, message)
        if self.white_level is not None:
            rates("config.dataset", self, "white_level")

    def _check_sizes(self) -> None:
        """Raises `UserError` for a size below its minimum."""
        at_least = {
            "image_size": 1,
            "resize": self.image_size or 1,
            "in_memory_mib": 0,
            "split_seed": 0,
            "workers": 0,
        }
        for name, least in at_least.items():
            value = getattr(self, name)
            message = f"config.dataset.{name} must be at least {least}, got {value}"
            require(value is None or value >= least, message)

    @staticmethod
    def _check_statistics(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        """Raises `UserError` unless both have one number per channel, from 0 to 1."""
        message = (
            "config.dataset.mean and config.dataset.std need a list of one number for "
            f"each channel, such as [0.5]; got {list(mean)} and {list(std)}"
        )
        require(mean and len(mean) == len(std), message)

        # The usual mistake: statistics of pixels from 0 to 255.
        scale = "are on the scale 0 to 1 (divide by 255)"
        message = f"config.dataset.mean: the values {scale}, got {list(mean)}"
        require(all(0 <= value <= 1 for value in mean), message)
        message = f"config.dataset.std: the values {scale} and above 0, got {list(std)}"
        require(all(0 < value <= 1 for value in std), message)

    def _check_effect(self):
        """Raises `UserError` for a setting without effect.

        The user would believe that it had one.
        """
        # Settings without effect on this data set must have their defaults.
        mine = dataclasses.asdict(self)
        fitting = for_data(mine, self.name)
        for name, value in mine.items():
            message = (
                f"config.dataset.{name} has no effect on {self.name}: leave "
                f"config.dataset.{name} out"
            )
            require(value == fitting[name], message)

        # The seed is only used to draw the split.
        message = (
            "config.dataset.split_seed has no effect without config.dataset.split: set "
            "both or none"
        )
        require(self.split is not None or not self.split_seed, message)


def for_data(dataset: Mapping, name: str) -> dict:
    """The settings of one data set, made fit for another one, `name`.

    Settings without effect on `name` get their defaults.
    """
    fields = dataclasses.fields(DatasetSettings)
    defaults = {field.name: field.default for field in fields}
    reset = {key: defaults[key] for key in without_effect(name)}
    return {**dataset, **reset}
