"""`export`: the network of a checkpoint into one file, at one bit for each binary
weight.
"""

import dataclasses
import pathlib
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bnas_jax import settings
from bnas_jax.core.errors import UserError
from bnas_jax.core.ops.packed import Kernel
from bnas_jax.data.facts import Facts
from bnas_jax.deploy import packed_file
from bnas_jax.deploy.pack import pack
from bnas_jax.deploy.packed_file import PackedFile
from bnas_jax.runtime import devices
from bnas_jax.settings import TrainSettings
from bnas_jax.training.load import restore, run_of
from bnas_jax.training.workdir import WorkDir
from bnas_jax.workdir.files import file_to_write

# Random images on which both networks are compared, and by which share of the largest
# logit theirs may differ: factors are rounded in another program, which can turn the
# sign of an activation.
_IMAGES = 4
_TOLERANCE = 0.1


def export(workdir: WorkDir, out: str, *, step: str = "last") -> dict:
    """Packs a checkpoint of `train` or `import` into the file `out`; its bytes, beside
    those of 32 bits a weight.

    step: `last`, `best` or a number. Before anything is written, the packed network's
    logits are compared with those of the
    network: "largest_difference", as a share of the largest.
    Raises `UserError` as `training.load.restore` and `pack` do, for weights that are
    not finite, for logits that differ, and where the file cannot be written.
    """
    path = file_to_write(out)
    devices.configure_alone(run_of(workdir))
    restored = restore(workdir, step=step)
    model, variables, facts = restored.model, restored.variables, restored.facts
    if not devices.all_finite(variables):
        raise UserError(
            f"the weights of step {restored.step} in {workdir.path} are not all "
            "finite; choose another --step"
        )

    packed = pack(model, variables, image_shape=facts.image_shape)
    difference = _difference(model, variables, packed, image_shape=facts.image_shape)
    if not difference < _TOLERANCE:
        raise UserError(
            f"the packed network's logits differ by {difference:.2g} of the largest, "
            "so that nothing was written; a packed"
            " scheme's `kernel` may use the parameters and the shape of x, but not the "
            "values of x: change the scheme"
        )
    content = PackedFile(
        settings=_settings_of(restored.run),
        facts=_facts_of(facts),
        variables=packed,
        extensions=_extensions_of(workdir),
    )
    size = packed_file.write(path, content)
    binary, floats = count_stored(packed)
    return {
        "bytes": size,
        "float_bytes": 4 * (binary + floats),
        "binary_weights": binary,
        "float_numbers": floats,
        "largest_difference": difference,
        "step": restored.step,
        "out": out,
    }


def count_stored(variables: Mapping) -> tuple[int, int]:
    """(binary weights, floating-point numbers) of the variables of a packed network."""
    is_kernel = lambda leaf: isinstance(leaf, Kernel)
    leaves = jax.tree.leaves(dict(variables), is_leaf=is_kernel)
    binary = sum(int(np.prod(leaf.shape)) for leaf in leaves if is_kernel(leaf))
    floats = sum(leaf.size for leaf in leaves if not is_kernel(leaf))
    return binary, floats


def _settings_of(run: TrainSettings) -> dict:
    """The settings, without where the data and a teacher lay and which machines there
    were.
    """
    without = dataclasses.replace(
        run,
        dataset=dataclasses.replace(run.dataset, path=None),
        distributed=settings.DistributedSettings(),
        teacher=settings.TeacherSettings(),
    )
    return settings.to_dict(without)


def _facts_of(facts: Facts) -> dict:
    """What a network needs to know about its data, not which images these were."""
    kept = dataclasses.replace(facts, num_train=None, digest=None, test_digest=None)
    return kept.known()


def _extensions_of(workdir: WorkDir) -> tuple[dict, ...]:
    """Of the files of a user's entries the names, without the folder, and the hashes."""
    found = []
    for entry in workdir.facts().get("extensions", ()):
        found.append({**entry, "file": pathlib.PurePath(entry["file"]).name})
    return tuple(found)


def _difference(
    model: nn.Module, variables: dict, packed: dict, image_shape: tuple[int, ...]
) -> float:
    """The largest difference of both networks' logits for random images, as a share of
    the largest logit.
    """
    images = jax.random.normal(jax.random.key(0), (_IMAGES, *image_shape))

    def logits(variables):
        return model.apply(variables, images, train=False)

    ours, theirs = (
        devices.ONE.create(logits, packed),
        devices.ONE.create(logits, variables),
    )
    largest = jnp.maximum(jnp.max(jnp.abs(theirs)), jnp.finfo(theirs.dtype).tiny)
    return float(jnp.max(jnp.abs(ours - theirs)) / largest)
