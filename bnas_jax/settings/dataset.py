"""The settings of a run's data, `config.dataset`."""

import dataclasses
from collections.abc import Mapping

from bnas_jax.settings.checks import choice, rates, require

SPLITS = ("random", "stratified", "in_order")
# Of a field: a setting of searches alone, which is as the convention says where it is not set.
OF_SEARCH = {"of_search": True}


# Settings of config.dataset that have no effect on a data set: it has a size, or a test set, of its own.
_SPLIT = ("split", "split_seed")
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


WITHOUT_EFFECT = {
    "digits": ("path", *_SPLIT, *_READING),
    "cifar10": (*_SPLIT, "white_level"),
    "cifar100": (*_SPLIT, "white_level"),
    "imagenet2012": (*_SPLIT, "white_level"),
    "tfds:": ("white_level",),  # images of 8 bits
    "folder": (),
}


def without_effect(name: str) -> tuple[str, ...]:
    """The settings of config.dataset that have no effect on the data set of a name."""
    return WITHOUT_EFFECT.get("tfds:" if name.startswith("tfds:") else name, ())


@dataclasses.dataclass(frozen=True)
class DatasetSettings:
    """name: see `data.load`. path: where its files are. None takes the data set's own.

    mean, std: of each channel, on the scale 0 to 1, by which images are normalised; both or none. pad, flip, min_area,
    jitter, cutout: the augmentation, see `data.augment`. image_size: side to which images are brought; resize: side of
    which it is the centre. channels: 1 or 3. split: share of a set without test images that becomes its test set, drawn by
    split_seed, whatever the run's seed. white_level: the number that is white in images of more than 8 bits, see
    `data.images`. in_memory_mib: larger sets are streamed. search_split: the halves of a search, drawn at `random`,
    `stratified` so that each class is halved, or the first and the second half `in_order`. augment_validation: a search
    augments the images that its epochs are validated on, too. bad_images: those that cannot be read are an error (fail) or
    left out and counted (skip). workers: processes that read. What has no effect on the data set is refused, see
    `WITHOUT_EFFECT`.
    """

    name: str = "cifar10"
    path: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    pad: int | None = None
    flip: bool | None = None
    min_area: float | None = None
    jitter: tuple[float, ...] | None = None
    cutout: int | None = None
    image_size: int | None = None
    resize: int | None = None
    channels: int | None = None
    white_level: float | None = None
    split: float | None = None
    split_seed: int = 0
    in_memory_mib: int | None = None
    search_split: str = dataclasses.field(default="random", metadata=OF_SEARCH)
    augment_validation: bool = dataclasses.field(default=False, metadata=OF_SEARCH)
    bad_images: str = "fail"
    workers: int = 0

    def __post_init__(self):
        self._check_effect()
        for name in ("pad", "cutout"):
            pixels = getattr(self, name)
            require(
                pixels is None or pixels >= 0,
                f"config.dataset.{name} must be 0 or more pixels, got {pixels}",
            )
        at_least = {
            "image_size": 1,
            "resize": self.image_size or 1,
            "in_memory_mib": 0,
            "split_seed": 0,
            "workers": 0,
        }
        for name, least in at_least.items():
            value = getattr(self, name)
            require(
                value is None or value >= least,
                f"config.dataset.{name} must be at least {least}, got {value}",
            )
        choice("config.dataset.channels", self.channels, (None, 1, 3))
        choice("config.dataset.search_split", self.search_split, SPLITS)
        choice("config.dataset.bad_images", self.bad_images, ("fail", "skip"))
        require(
            self.split is None or 0 < self.split < 1,
            f"config.dataset.split must be between 0 and 1, got {self.split}",
        )
        if self.mean is not None or self.std is not None:
            self._check_statistics(self.mean or (), self.std or ())
        sized = self.image_size is not None or self.name == "imagenet2012"
        require(
            self.resize is None or sized,
            "config.dataset.resize needs config.dataset.image_size, its centre",
        )
        if self.white_level is not None:
            rates("config.dataset", self, "white_level")

    @staticmethod
    def _check_statistics(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        both = "config.dataset.mean and config.dataset.std need a list of one number for each channel, such as [0.5]"
        require(mean and len(mean) == len(std), f"{both}; got {list(mean)} and {list(std)}")
        scale = "are on the scale 0 to 1 (divide by 255)"
        require(
            all(0 <= m <= 1 for m in mean),
            f"config.dataset.mean: the values {scale}, got {list(mean)}",
        )
        require(
            all(0 < s <= 1 for s in std),
            f"config.dataset.std: the values {scale} and above 0, got {list(std)}",
        )

    def _check_effect(self):
        mine = dataclasses.asdict(self)
        fitting = for_data(mine, self.name)
        for name, value in mine.items():
            message = f"config.dataset.{name} has no effect on {self.name}: leave config.dataset.{name} out"
            require(value == fitting[name], message)
        divided = self.split is not None or not self.split_seed
        require(
            divided,
            "config.dataset.split_seed has no effect without config.dataset.split: set both or none",
        )


def for_data(dataset: Mapping, name: str) -> dict:
    """The settings of one data set for another one: what has no effect on that is as it was before it was set."""
    defaults = {field.name: field.default for field in dataclasses.fields(DatasetSettings)}
    return {**dataset, **{key: defaults[key] for key in without_effect(name)}}
