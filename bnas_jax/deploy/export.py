"""`export`: the network of a checkpoint into one file, at one bit for each binary weight."""

import pathlib
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from bnas_jax import settings
from bnas_jax.core import paths
from bnas_jax.core.errors import UserError
from bnas_jax.core.ops.packed import Kernel
from bnas_jax.deploy import packed_file
from bnas_jax.deploy.pack import QUICKLY, pack
from bnas_jax.deploy.packed_file import PackedFile
from bnas_jax.training.load import restore
from bnas_jax.training.workdir import WorkDir

# Images of noise on which both networks are compared, and by which share of the largest logit theirs may differ: the factors
# of the weights are rounded in another program.
_IMAGES = 4
_TOLERANCE = 1e-3


def export(workdir: WorkDir, out: str, *, step: str = "last") -> dict:
    """Packs a checkpoint of `train` or `import` into the file `out`; its bytes, beside those of 32 bits a weight.

    step: `last`, `best` or a number. Before anything is written, the packed network's logits are compared with those of the
    network: "largest_difference", as a share of the largest.
    Raises `UserError` as `training.load.restore` and `pack` do, and where the file cannot be written.
    """
    path = file_to_write(out)
    restored = restore(workdir, step=step)
    model, variables, facts = restored.model, restored.variables, restored.facts

    packed = pack(model, variables, image_shape=facts.image_shape)
    difference = _difference(model, variables, packed, image_shape=facts.image_shape)
    content = PackedFile(
        settings=settings.to_dict(restored.run),
        facts=facts.known(),
        variables=packed,
        extensions=tuple(workdir.facts().get("extensions", ())),
    )
    size = packed_file.write(path, content)
    binary, floats = numbers(packed)
    return {
        "bytes": size,
        "float_bytes": 4 * (binary + floats),
        "binary_weights": binary,
        "float_numbers": floats,
        "largest_difference": difference,
        "step": restored.step,
        "out": out,
    }


def file_to_write(out: str) -> pathlib.Path:
    """The file of the option `--out`; `UserError` where its folder is not there."""
    path = paths.local(out, "--out")
    if path.is_dir():
        raise UserError(f"{path} is a folder; write --out=FILE")
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {path.parent}; make it, or write another --out")
    return path


def numbers(variables: Mapping) -> tuple[int, int]:
    """(binary weights, floating-point numbers) of the variables of a packed network."""
    is_kernel = lambda leaf: isinstance(leaf, Kernel)
    leaves = jax.tree.leaves(dict(variables), is_leaf=is_kernel)
    binary = sum(int(np.prod(leaf.shape)) for leaf in leaves if is_kernel(leaf))
    floats = sum(leaf.size for leaf in leaves if not is_kernel(leaf))
    return binary, floats


def _difference(model: nn.Module, variables: dict, packed: dict, image_shape: tuple) -> float:
    """The largest difference of both networks' logits for images of noise, as a share of the largest logit.

    An AssertionError where it is more than rounding, which would be a mistake of this package.
    """
    images = jax.random.normal(jax.random.key(0), (_IMAGES, *image_shape))

    def logits(variables):
        return model.apply(variables, images, train=False)

    ours, theirs = [
        jax.jit(logits).lower(given).compile(QUICKLY)(given) for given in (packed, variables)
    ]
    largest = jnp.maximum(jnp.max(jnp.abs(theirs)), jnp.finfo(theirs.dtype).tiny)
    difference = float(jnp.max(jnp.abs(ours - theirs)) / largest)
    assert difference < _TOLERANCE, f"the packed network's logits differ by a share of {difference}"
    return difference
