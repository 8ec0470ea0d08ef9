"""`data`: prepares, converts or checks a data set on disk."""

import re

from absl import flags

from bnas_jax import settings
from bnas_jax.cli.configs import Loaded
from bnas_jax.cli.flags import number, options, required, second_word
from bnas_jax.core.errors import UserError


def data(arguments: list[str], loaded: Loaded) -> dict:
    """Prepares, converts or checks a data set on disk."""
    from bnas_jax.data.tools import convert, prepare

    del loaded
    actions = ("prepare", "convert", "check")
    action, *rest = second_word("data", words=actions, arguments=arguments)

    # Convert one directory into another.
    if action == "convert":
        values = options(rest, "data convert", "source", "out")
        return convert.convert(
            required(values, "source", example="DIR, a prepared data set"),
            required(values, "out", example="DATA_DIR, a directory for the new one"),
        )

    # The other actions take the name of a data set.
    if not rest or rest[0].startswith("-"):
        raise UserError(
            f"data {action} needs the name of a data set after it, for instance cifar10"
        )
    name, *rest = rest

    # `prepare` downloads the data set, `check` reads all of it.
    if action == "prepare":
        values = options(rest, "data prepare", "out")
        return prepare.prepare(name.removeprefix("tfds:"), values.out)
    values = options(rest, "data check", "path", "split", "white_level")
    return _check(name, values)


def _check(name: str, values: flags.FlagValues) -> dict:
    """Reads all images of a data set; returns their numbers and what is wrong."""
    from bnas_jax.data.readers.encoded import ReadOptions
    from bnas_jax.data.tools import check

    split = number(values, "split", kind=float)
    white_level = number(values, "white_level", kind=float)
    try:
        # These settings check the numbers.
        dataset = settings.DatasetSettings(
            name, path=values.path, split=split, white_level=white_level
        )
        reading = ReadOptions(split=dataset.split, white_level=dataset.white_level)
        return check.check(name, path=values.path, options=reading)
    except UserError as error:
        # The message names settings, which are options of this command.
        message = str(error).replace("set config.dataset.name to", "write data check")
        message = re.sub(r"config\.dataset\.(path|split|white_level)", r"--\1", message)
        raise UserError(message) from None
