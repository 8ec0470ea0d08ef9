"""`data`: prepares, converts or checks a data set on disk."""

import re

from bnas_jax import settings
from bnas_jax.cli.configs import Loaded
from bnas_jax.cli.flags import number, options, required, second_word
from bnas_jax.core.errors import UserError


def data(arguments: list[str], loaded: Loaded) -> dict:
    """Prepares, converts or checks a data set on disk."""
    from bnas_jax.data import check, convert, prepare
    from bnas_jax.data.encoded import ReadOptions

    del loaded
    action, *rest = second_word("data", ("prepare", "convert", "check"), arguments)
    if action == "convert":
        values = options(rest, "data convert", "source", "out")
        return convert.convert(required(values, "source"), required(values, "out"))
    if not rest or rest[0].startswith("-"):
        raise UserError(
            f"data {action} needs the name of a data set behind it, for instance cifar10"
        )
    name, *rest = rest
    if action == "prepare":
        return prepare.prepare(name.removeprefix("tfds:"), options(rest, "data prepare", "out").out)
    values = options(rest, "data check", "path", "split", "white_level")
    numbers = {name: number(values, name, float) for name in ("split", "white_level")}
    try:
        dataset = settings.DatasetSettings(name, values.path, **numbers)
        return check.check(
            name, values.path, ReadOptions(split=dataset.split, white_level=dataset.white_level)
        )
    except UserError as error:
        # Its advice is written for runs, whose data is a setting.
        message = str(error).replace("set config.dataset.name to", "write data check")
        raise UserError(
            re.sub(r"config\.dataset\.(path|split|white_level)", r"--\1", message)
        ) from None
