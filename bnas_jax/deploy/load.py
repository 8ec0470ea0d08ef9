"""Loads a packed network from its file: as a model and its variables."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from flax.traverse_util import flatten_dict

from bnas_jax import __version__, extensions, settings
from bnas_jax.core import paths
from bnas_jax.core.errors import UserError
from bnas_jax.core.ops.packed import Kernel
from bnas_jax.data import defaults
from bnas_jax.data import facts as facts_lib
from bnas_jax.data.facts import Facts
from bnas_jax.deploy import packed_file
from bnas_jax.deploy.pack import shapes_of
from bnas_jax.deploy.packed_file import PackedFile
from bnas_jax.extensions import Extension
from bnas_jax.settings import TrainSettings
from bnas_jax.training import build
from bnas_jax.training.state import initial_variables


class PackedNetwork(NamedTuple):
    """What a file says of a network.

    `model_of` makes its model: `model.apply(variables, images, train=False)`.
    """

    file: pathlib.Path
    # The settings that it was trained with.
    run: TrainSettings
    # About the data that it was trained on.
    facts: Facts
    # As `pack` makes them.
    variables: dict


def load_packed(path: str | os.PathLike) -> tuple[nn.Module, dict]:
    """(model, variables) of a file that `export` wrote.

    `model.apply(variables, images, train=False)` gives the logits. Binary weights stay
    at one bit each. Images are NHWC floats, normalised as `packed_facts` says. Raises
    `UserError` for another file.

    Example: `model, variables = bnas.load_packed("digits.bnas")`.
    """
    file = paths.local(path, "load_packed")
    network = _network(file, packed_file.read(file))
    return model_of(network, network.run), network.variables


def packed_facts(path: str | os.PathLike) -> dict:
    """What a file that `export` wrote says of the images that its network takes.

    It has "num_classes", "image_shape" and "white", the number that is white in arrays
    of pixels. As far as they are known, it also has "mean" and "std" of each channel,
    and "class_names". The network takes (pixels / white - mean) / std. Raises
    `UserError` for another file.

    Example: `bnas.packed_facts("digits.bnas")["class_names"]`.
    """
    file = paths.local(path, "packed_facts")
    network = _network(file, packed_file.read(file))
    white = defaults.white(network.run.dataset.name)
    return {**network.facts.known(), "white": white}


def read(path: str, loaded: Sequence[Extension]) -> PackedNetwork:
    """The network of the option `--model`.

    loaded: the extensions that were given.

    Raises `UserError` for another file, and for one that was made with an extension
    that is not given.
    """
    file = paths.local(path, "--model")
    content = packed_file.read(file)

    # The file notes the extensions that its network needs.
    noted = []
    for entry in content.extensions:
        noted.append((str(entry.get("file")), str(entry.get("sha256"))))
    extensions.compare(file, noted, loaded)
    return _network(file, content)


def model_of(network: PackedNetwork, run: TrainSettings) -> nn.Module:
    """The model of a packed network, in the precision of `run`.

    Raises `UserError` where the file lacks an array of the model, or has one of another
    shape.
    """
    facts = network.facts
    model = build.network(run, facts.num_classes)
    _check(network.file, network.variables, model, image_shape=facts.image_shape)
    return model


def _network(file: pathlib.Path, content: PackedFile) -> PackedNetwork:
    """The network of a file's content.

    Raises `UserError` for settings that are not understood, and for those of a search.
    """
    # Settings may name entries of an extension, which says what to do.
    try:
        run = settings.from_config(dict(content.settings))
    except UserError as error:
        names = ", ".join(str(entry.get("file")) for entry in content.extensions)
        advice = "export it again"
        if content.version != __version__:
            advice = (
                f"bnas-jax {content.version} wrote it, this is {__version__}: use that "
                "version, or export it again"
            )
        if names:
            advice = f"import the extension {names} first"
        raise UserError(
            f"the settings in {file} are not understood ({error}); {advice}"
        ) from None
    if not isinstance(run, TrainSettings):
        raise UserError(
            f"{file} holds a search; export the work directory of a training"
        )

    facts = facts_lib.from_dict(content.facts)
    return PackedNetwork(file, run=run, facts=facts, variables=dict(content.variables))


def _check(
    file: pathlib.Path,
    variables: Mapping,
    model: nn.Module,
    image_shape: tuple[int, ...],
) -> None:
    """Raises `UserError` unless the file has the model's arrays, in their shapes."""
    # The shapes that the model's arrays have, and those of the file.
    initial = jax.eval_shape(lambda: initial_variables(model, image_shape, seed=0))
    expected = shapes_of(model, initial, image_shape)
    flat = flatten_dict(dict(variables))
    found = {path: _shape(leaf) for path, leaf in flat.items()}

    # An array that is missing, or one too many, has the shape None on one side.
    for path in sorted({*expected, *found}):
        if found.get(path) != expected.get(path):
            raise UserError(
                f"{file} is damaged: {'/'.join(path)} has the shape {found.get(path)}, "
                f"in the network of its settings {expected.get(path)}; export it again"
            )


def _shape(leaf: Any) -> tuple:
    """The shape of an array or a kernel, or the shapes of a tuple of operands."""
    if isinstance(leaf, tuple) and not isinstance(leaf, Kernel):
        return tuple(operand.shape for operand in leaf)
    return tuple(leaf.shape)
