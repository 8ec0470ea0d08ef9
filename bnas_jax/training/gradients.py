"""The size of the gradient at each convolution of a network.

Where it vanishes, early layers do not learn. The paper's Figures 4 and 10 show this for
networks without inter-cell skips.
"""

import os

import flax.linen as nn
import jax
import jax.numpy as jnp

from bnas_jax.core.cost import cost
from bnas_jax.core.first_weights import PYTORCH
from bnas_jax.core.losses import cross_entropy
from bnas_jax.data.batches import Batches
from bnas_jax.runtime import jax_setup
from bnas_jax.settings import TrainSettings
from bnas_jax.training.load import Restored, restore, run_of
from bnas_jax.training.run_data import load_run_data
from bnas_jax.training.state import initial_variables
from bnas_jax.training.step_parts import Batch
from bnas_jax.training.workdir import WorkDir
from bnas_jax.workdir.directory import GRADIENTS
from bnas_jax.workdir.files import write_whole

# A convolution's kernel is (rows, columns, inputs, outputs).
_KERNEL_NDIM = 4


def write_gradients(workdir: WorkDir, *, step: str = "last") -> dict:
    """Writes gradients.json into a work directory, and returns its contents.

    They are those of `gradients_of_run`.

    step: see `gradients_of_run`.
    """
    jax_setup.configure_alone(run_of(workdir))
    found = gradients_of_run(workdir.path, step=step)
    write_whole(workdir / GRADIENTS, found)
    return found


def gradients_of_run(workdir: str | os.PathLike, *, step: str = "last") -> dict:
    """`gradient_sums` on the first batch of a training run.

    They are computed with the weights before the first step, and with those of a
    checkpoint.

    step: the step of the checkpoint, `last`, `best` or a number.

    Returns a dict:

    - "layers": the names of the layers, in the order of the forward pass.
    - "first": the sums before the first step; None for a run that was initialised with
      the weights of another run (`--init`).
    - "last": the sums at the checkpoint.
    - "step": the step of the checkpoint.

    Raises `UserError` as `load` does.

    >>> sums = gradients_of_run("runs/train")  # doctest: +SKIP
    >>> sums["layers"][0]  # doctest: +SKIP
    'stem/conv'
    """
    directory = WorkDir(workdir)
    restored = restore(directory, step=step)
    model = restored.model
    batch, image_shape = _first_batch(restored, directory)
    sums_of = jax.jit(lambda variables: gradient_sums(model, variables, batch))

    # At the checkpoint.
    last = sums_of(restored.variables)
    layers = _in_order(model, image_shape, found=set(last))
    listed = lambda sums: [float(sums[name]) for name in layers]

    # Before the first step: draw the weights again from the run's seed, unless they
    # came from `--init`.
    first = None
    if "init" not in directory.facts():
        rule = first_rule(restored.run, directory)
        drawn = initial_variables(
            model, image_shape, seed=restored.run.seed, first_weights=rule
        )
        first = listed(sums_of(drawn))
    return {
        "layers": layers,
        "first": first,
        "last": listed(last),
        "step": restored.step,
    }


def first_rule(run: TrainSettings, directory: WorkDir) -> str:
    """The rule by which a run's weights were drawn, before any later change."""
    for change in directory.changed():
        if change["key"] == "first_weights":
            return change["from"]
    # Before there was the setting, recipes did not decide it.
    if "first_weights" not in directory.config():
        return PYTORCH
    return run.first_weights


def gradient_sums(
    model: nn.Module, variables: dict, batch: Batch
) -> dict[str, jax.Array]:
    """The sum of |dL / dW| over the kernel of each convolution.

    L is the mean cross-entropy. W is the float kernel, or the latent weights of a
    binary convolution. The gradient is that before the optimizer, without factors such
    as XNOR-Net's c (`LatentRule`). Drop-path is off, and batch norm takes the
    statistics of the batch. Returns {path of the module: sum, a scalar}.

    variables: {"params", "batch_stats"}.
    batch: {"image": NHWC, "label": (N,)}.

    >>> genotype = bnas.load_genotype("latest_cell")
    >>> network = bnas.Network(genotype, num_cells=1, channels=2, num_classes=10)
    >>> batch = {"image": jnp.ones((2, 8, 8, 1)), "label": jnp.zeros(2, int)}
    >>> shapes = jax.eval_shape(network.init, jax.random.key(0), batch["image"])
    >>> sums_of = lambda variables: gradient_sums(network, variables, batch)
    >>> sums = jax.eval_shape(sums_of, shapes)
    >>> sums["stem/conv"].shape
    ()
    """
    labels = batch["label"]  # (N,)

    def loss_of(params):
        logits, _ = model.apply(  # (N, classes)
            {**variables, "params": params},
            batch["image"],
            train=True,
            mutable=["batch_stats", "auxiliary"],
            rngs={"dropout": jax.random.key(0)},
        )
        return jnp.mean(cross_entropy(logits, labels))

    gradients = jax.grad(loss_of)(variables["params"])

    # By the path of the module. Several kernels of a module are added up.
    sums: dict[str, jax.Array] = {}
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        if gradient.ndim != _KERNEL_NDIM:
            continue
        module = "/".join(entry.key for entry in path[:-1])
        size = jnp.sum(jnp.abs(gradient))
        sums[module] = sums.get(module, 0.0) + size
    return sums


def _first_batch(
    restored: Restored, directory: WorkDir
) -> tuple[Batch, tuple[int, int, int]]:
    """(the first batch of a run's training, the shape (H, W, C) of its images)."""
    data, _ = load_run_data(restored.run, directory)
    batches = Batches(data, batch_size=restored.run.batch_size, seed=restored.run.seed)
    return batches.train_batch(0), data.train.image_shape


def _in_order(
    model: nn.Module, image_shape: tuple[int, int, int], found: set[str]
) -> list[str]:
    """The names of the convolutions in the order of the forward pass."""
    rows = [row.name for row in cost(model, image_shape=image_shape).rows]
    named = [name for name in dict.fromkeys(rows) if name in found]
    # Layers that are not in the table of costs come last.
    return [*named, *sorted(found - set(named))]
