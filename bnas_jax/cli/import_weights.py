"""`import`: makes a work directory from the authors' weights."""

import contextlib

from absl import flags

from bnas_jax import settings
from bnas_jax.cli.configs import (
    Loaded,
    define_config,
    last,
    preset_of,
    task_of,
    workdir_to_write,
)
from bnas_jax.cli.flags import read_flags, required
from bnas_jax.core.errors import UserError
from bnas_jax.settings import TrainSettings


def import_weights(arguments: list[str], loaded: Loaded) -> dict:
    """Writes a checkpoint of the authors' code into a work directory.

    The network follows `conventions=release`, unless the arguments set another one.
    """
    from bnas_jax.interop import checkpoint_files
    from bnas_jax.interop.import_checkpoint import import_checkpoint

    # The preset is needed before the flags are read, because it has the settings.
    preset = last(arguments, "--preset=")
    if not preset:
        raise UserError(
            "--preset is missing; write --preset=VARIANT, a variant of configs/train.py"
        )
    config = preset_of(preset)
    trained_on = config.dataset.name
    # The released code built the network.
    config.conventions = "release"

    # Read the options, and change the preset's settings as they say.
    values = flags.FlagValues()
    define_config(values, config=config, arguments=arguments, command="import")
    for name in ("preset", "checkpoint", "workdir"):
        flags.DEFINE_string(name, None, help=name, flag_values=values)
    read_flags(values, arguments=arguments, command="import")
    run = task_of(
        settings.from_config(config),
        kind=TrainSettings,
        command="import",
        example="configs/train.py:d",
    )

    with contextlib.closing(workdir_to_write(values, loaded)) as workdir:
        arrays = checkpoint_files.read(
            required(values, "checkpoint", example="FILE, the authors' weights")
        )
        # The file says neither the size of the training images nor their statistics.
        shape = _image_shape(run.dataset)
        statistics = _statistics(run.dataset, trained_on)
        return import_checkpoint(
            arrays, run, workdir, image_shape=shape, statistics=statistics
        )


def _image_shape(dataset: settings.DatasetSettings) -> tuple[int, int, int]:
    """(rows, columns, channels) of the images; if unknown, those of CIFAR-10."""
    from bnas_jax import counting

    sizes = {"image_size": 32, "image_channels": 3}
    sizes |= counting.known_sizes(dataset)
    side = sizes["image_size"]
    return side, side, sizes["image_channels"]


def _statistics(dataset: settings.DatasetSettings, trained_on: str) -> tuple:
    """(mean, std) of the normalisation of an imported network's images.

    They are those of the settings, or else of the data set, or else of the preset's
    data set.

    trained_on: the name of the preset's data set.
    """
    from bnas_jax.data.defaults import known_statistics

    # The statistics of a user's own data set are not known.
    if dataset.mean is not None and dataset.std is not None:
        return dataset.mean, dataset.std
    found = known_statistics(dataset.name) or known_statistics(trained_on)
    assert found is not None, "every preset's data set is known"
    return found
