"""`export`: writes the network of a checkpoint to one file.

It is a packed network, one bit a binary weight, or a program that needs JAX alone.
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from bnas_jax import extensions, settings
from bnas_jax.core.errors import UserError
from bnas_jax.core.ops.packed import Kernel
from bnas_jax.data import defaults
from bnas_jax.data.facts import Facts
from bnas_jax.deploy import packed_file
from bnas_jax.deploy.pack import pack
from bnas_jax.deploy.packed_file import PackedFile
from bnas_jax.deploy.pixels import logits_of_pixels
from bnas_jax.deploy.program import Target, check_flatbuffers, program
from bnas_jax.runtime import devices, jax_setup
from bnas_jax.settings import TrainSettings
from bnas_jax.training.divergence_check import all_finite
from bnas_jax.training.load import Restored, restore, run_of
from bnas_jax.training.workdir import WorkDir
from bnas_jax.workdir.files import file_to_write, whole

# The random images on which the packed network is compared with the network.
_IMAGES = 4
# By which share of the largest logit theirs may differ. Factors are rounded in another
# program, which can turn the sign of an activation.
_TOLERANCE = 0.1


def export(
    workdir: WorkDir,
    out: str,
    *,
    step: str = "last",
    target: Target | None = None,
) -> dict:
    """Packs a checkpoint of `train` or `import` into the file `out`.

    Returns how large the file is ("bytes"), how large it would be with 32 bits a weight
    ("float_bytes"), and what it holds. Before anything is written, the packed network's
    logits are compared with those of the network: "largest_difference", as a share of
    the largest.

    Raises `UserError` as `training.load.restore`, `pack` and `program` do, for weights
    that are not finite, for logits that differ, and where the file cannot be written.

    step: `last`, `best` or a number.
    target: where a program is to run, which is written in place of a packed network.
    """
    # What cannot be written is refused first.
    path = file_to_write(out)
    if target is not None:
        check_flatbuffers()

    # Restore the checkpoint, on one device whatever the run had.
    jax_setup.configure_alone(run_of(workdir))
    restored = restore(workdir, step=step)
    model, variables, facts = restored.model, restored.variables, restored.facts
    if not all_finite(variables):
        raise UserError(
            f"the weights of step {restored.step} in {workdir.path} are not all "
            "finite; choose another --step"
        )

    # Pack it, and compare both networks.
    packed = pack(model, variables, image_shape=facts.image_shape)
    difference = _difference(model, variables, packed, image_shape=facts.image_shape)
    if not difference < _TOLERANCE:
        raise UserError(
            f"the packed network's logits differ by {difference:.2g} of the largest, "
            "so that nothing was written; a packed scheme's `kernel` may use the "
            "parameters and the shape of x, but not the values of x: change the scheme"
        )

    # Write it.
    if target is None:
        _write_packed(path, restored, packed, workdir=workdir)
    else:
        content = _program(restored, packed, target, source=str(workdir.path))
        with whole(path) as part:
            part.write_bytes(content)

    # Its size beside that of 4 bytes a weight.
    binary, floats = count_stored(packed)
    return {
        "bytes": path.stat().st_size,
        "float_bytes": 4 * (binary + floats),
        "binary_weights": binary,
        "float_numbers": floats,
        "largest_difference": difference,
        "step": restored.step,
        "out": out,
    }


def _program(restored: Restored, packed: dict, target: Target, *, source: str) -> bytes:
    """A packed network as a program of pixels."""
    logits_of = logits_of_pixels(
        restored.model,
        restored.facts,
        white=defaults.white(restored.run.dataset.name),
        source=source,
    )
    logits_of = functools.partial(logits_of, packed)
    return program(logits_of, restored.facts.image_shape, target)


def _write_packed(
    path: pathlib.Path, restored: Restored, packed: dict, *, workdir: WorkDir
) -> None:
    """Writes a packed network with all that `evaluate` and `predict` need to know."""
    content = PackedFile(
        settings=_settings_of(restored.run),
        facts=_facts_of(restored.facts),
        variables=packed,
        extensions=_extensions_of(workdir),
    )
    packed_file.write(path, content)


def count_stored(variables: Mapping) -> tuple[int, int]:
    """(binary weights, other numbers) of a packed network's variables."""
    # A kernel is a tree of its own: its words have padding, its shape has none.
    is_kernel = lambda leaf: isinstance(leaf, Kernel)
    binary, floats = 0, 0
    for leaf in jax.tree.leaves(dict(variables), is_leaf=is_kernel):
        if is_kernel(leaf):
            binary += math.prod(leaf.shape)
        else:
            floats += leaf.size
    return binary, floats


def _settings_of(run: TrainSettings) -> dict:
    """The settings of a training, without what belongs to its machines.

    These are where the data and a teacher lay, and which hosts there were.
    """
    dataset = dataclasses.replace(run.dataset, path=None)
    without = dataclasses.replace(
        run,
        dataset=dataset,
        distributed=settings.DistributedSettings(),
        teacher=settings.TeacherSettings(),
    )
    return settings.to_dict(without)


def _facts_of(facts: Facts) -> dict:
    """What a network needs to know about its data, but not which images these were."""
    # Facts that are None are left out of `known`.
    kept = dataclasses.replace(facts, num_train=None, digest=None, test_digest=None)
    return kept.known()


def _extensions_of(workdir: WorkDir) -> tuple[dict, ...]:
    """The files of a user's entries: their names without the folder, and hashes."""
    found = []
    for file, digest in extensions.noted(workdir.path):
        found.append({"file": pathlib.PurePath(file).name, "sha256": digest})
    return tuple(found)


def _difference(
    model: nn.Module, variables: dict, packed: dict, image_shape: tuple[int, ...]
) -> float:
    """The largest difference of both networks' logits for random images.

    It is a share of the largest logit. image_shape: (H, W, C).
    """
    key = jax.random.key(0)
    images = jax.random.normal(key, (_IMAGES, *image_shape))  # (images, H, W, C)

    def logits(variables):
        return model.apply(variables, images, train=False)

    ours = devices.ONE.create(logits, packed)  # (images, classes)
    theirs = devices.ONE.create(logits, variables)  # (images, classes)

    # Logits that are all 0 divide by the smallest float.
    tiny = jnp.finfo(theirs.dtype).tiny
    largest = jnp.maximum(jnp.max(jnp.abs(theirs)), tiny)
    return float(jnp.max(jnp.abs(ours - theirs)) / largest)
