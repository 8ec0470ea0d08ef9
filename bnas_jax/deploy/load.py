"""A packed network from its file, as a model and variables of it."""

import os
from typing import NamedTuple

import flax.linen as nn

from bnas_jax import settings
from bnas_jax.core import paths
from bnas_jax.core.errors import UserError
from bnas_jax.data import facts as facts_lib
from bnas_jax.data.facts import Facts
from bnas_jax.deploy import packed_file
from bnas_jax.settings import TrainSettings
from bnas_jax.training import build


class PackedNetwork(NamedTuple):
    """A network of a file: `model.apply(variables, images, train=False)`.

    run: the settings that it was trained with. facts: about the data that it was trained on.
    """

    model: nn.Module
    variables: dict
    run: TrainSettings
    facts: Facts


def load_packed(path: str | os.PathLike) -> tuple[nn.Module, dict]:
    """(model, variables) of a file that `export` wrote: `model.apply(variables, images, train=False)`.

    Binary weights stay at one bit each. Images are NHWC floats, normalised as for `load`. Raises `UserError` for another file.
    Example: `model, variables = bnas.load_packed("digits.bnas")`.
    """
    network = read(path)
    return network.model, network.variables


def read(path: str | os.PathLike, option: str = "--model") -> PackedNetwork:
    """The network of a file, with what is known about it. option: the one that names the file, for messages."""
    file = paths.local(path, option)
    content = packed_file.read(file)
    try:
        run = settings.from_config(dict(content.settings))
    except UserError as error:
        if not content.extensions:
            raise UserError(f"the settings in {file} are not understood: {error}") from None
        names = ", ".join(str(extension.get("file")) for extension in content.extensions)
        raise UserError(
            f"{error}; {file} needs the extension {names}: add --extensions={names}"
        ) from None
    if not isinstance(run, TrainSettings):
        raise UserError(
            f"{file} holds a search; export it anew from the work directory of a training"
        )

    facts = facts_lib.from_dict(content.facts)
    model = build.network(run, facts.num_classes)
    return PackedNetwork(model, dict(content.variables), run=run, facts=facts)
