"""The training step of XNOR-Net's ResNet18 beside the same in PyTorch, in turns."""

import importlib.util
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bnas_jax.baselines.resnet import ResNet18
from bnas_jax.benchmarks import measure
from bnas_jax.benchmarks.programs import noise, program_of
from bnas_jax.benchmarks.stepper import Stepper
from bnas_jax.core.errors import UserError
from bnas_jax.core.losses import cross_entropy
from bnas_jax.core.schemes import Xnor
from bnas_jax.runtime import jax_setup
from bnas_jax.settings import SearchSettings, TrainSettings
from bnas_jax.training.build import Program

# The share by which the two losses may differ with the same weights. Rounding can turn
# a sign, which shows in networks of few channels; ResNet18 of 64 channels agrees to
# 1e-6.
_TOLERANCE = 1e-2


def benchmark(
    run: SearchSettings | TrainSettings,
    *,
    image_size: int,
    num_classes: int,
    repeats: int,
) -> dict:
    """Times of a step of ours and of PyTorch's, on noise of this size.

    Times are in seconds; "ratio" is PyTorch's over ours in each turn. Before that, both
    compute the loss of the same images with the same weights.

    Raises RuntimeError where the losses differ, and `UserError` for a run that was not
    written in PyTorch, and where PyTorch is not installed.
    """
    network, scheme = _known(run)
    # Imported now that PyTorch is known to be there.
    from bnas_jax.benchmarks.torch_resnet18 import TorchStep, torch

    # Ours, as a run makes it.
    where = jax_setup.configure(run)
    where.check_batch(run)
    data = noise(4 * run.batch_size, image_size=image_size, num_classes=num_classes)
    program = program_of(run, data=data, where=where)

    # Theirs, which begins with our weights.
    rng = np.random.default_rng(0)
    shape = (run.batch_size, image_size, image_size, 3)
    images = rng.standard_normal(shape, dtype=np.float32)  # (batch, rows, columns, 3)
    labels = np.arange(run.batch_size) % num_classes  # (batch,)
    theirs = TorchStep(
        network, scheme, num_classes=num_classes, images=images, labels=labels
    )
    _check_losses(program, theirs, images=images, labels=labels)

    # One step of each that is not measured.
    ours = Stepper(program, where)
    ours.step()
    theirs.step()

    of_ours, of_theirs = measure.in_turns([ours.step, theirs.step], repeats)
    ratios = np.divide(of_theirs, of_ours)  # (turns,)
    size = f"{image_size}x{image_size}"
    return {
        "batch_size": run.batch_size,
        "network": f"ResNet18 of {network.width} channels, {size} images",
        "step_seconds": measure.summary(of_ours),
        "torch_step_seconds": measure.summary(of_theirs),
        "torch_threads": torch.get_num_threads(),
        "ratio": measure.summary(list(ratios)),
        "conditions": measure.conditions("torch"),
    }


def _known(run: SearchSettings | TrainSettings) -> tuple[ResNet18, Xnor]:
    """The network and the scheme, which `torch_resnet18` has, too.

    Raises `UserError` for another run, and where PyTorch is not installed.
    """
    network, scheme = run.network, run.scheme
    if type(network) is not ResNet18 or type(scheme) is not Xnor or not _is_known(run):
        raise UserError(
            "--against=torch compares one training alone: write benchmark train "
            "--config=configs/baselines.py:resnet18 --against=torch, on a CPU; of its "
            "settings config.batch_size, config.network.width, config.network.blocks "
            "and config.scheme.activation_scale may change"
        )
    if importlib.util.find_spec("torch") is None:
        raise UserError("--against=torch needs PyTorch: pip install torch")
    return network, scheme


def _is_known(run: Any) -> bool:
    """Whether `torch_resnet18` has all settings of a training of ResNet18."""
    usual_network = ResNet18(width=run.network.width, blocks=run.network.blocks)
    usual_scheme = Xnor(activation_scale=run.scheme.activation_scale)
    return (
        run.network == usual_network
        and run.scheme == usual_scheme
        and run.precision == "float32"
        and run.microbatches == 1
        and run.optimizer.name == "sgd"
        and run.teacher.workdir is None
        and jax.default_backend() == "cpu"
    )


def _check_losses(
    program: Program, theirs, *, images: np.ndarray, labels: np.ndarray
) -> None:
    """Gives PyTorch our first weights, and compares the losses.

    Raises RuntimeError where they differ: a comparison of times would mean nothing.
    """
    # Our parameters, by the names of their modules and their own.
    variables = program.create(0).variables
    params = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
        params[tuple(key.key for key in path)] = np.asarray(leaf)
    theirs.load(params)

    # The cross-entropy of both, with the statistics of the batch.
    logits, _ = program.model.apply(
        variables, images, train=True, mutable=["batch_stats"]
    )  # (batch, classes)
    ours = float(cross_entropy(logits, jnp.asarray(labels)).mean())
    other = theirs.loss().item()
    if not abs(ours - other) < _TOLERANCE * ours:
        raise RuntimeError(
            f"the same weights have a loss of {ours:.6g} here and {other:.6g} in "
            "PyTorch, so that the times of both are not comparable"
        )
