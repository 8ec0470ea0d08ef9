"""Measures a training step of XNOR-Net's ResNet18, ours and PyTorch's in turns."""

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

# The relative difference of the two losses that is accepted for the same weights.
# Rounding can flip a sign, which matters in networks with few channels; the losses of a
# ResNet18 with 64 channels agree to 1e-6.
_TOLERANCE = 1e-2


def benchmark(
    run: SearchSettings | TrainSettings,
    *,
    image_size: int,
    num_classes: int,
    repeats: int,
) -> dict:
    """Seconds of our step and of PyTorch's, on random images.

    "ratio" is PyTorch's time divided by ours, in each turn. Before that, the losses of
    both are compared, for the same images and weights.

    Raises RuntimeError where the losses differ, and `UserError` for a run that
    `torch_resnet18` does not implement, and where PyTorch is not installed.
    """
    network, scheme = _known(run)
    # Imported only now, after the check that PyTorch is installed.
    from bnas_jax.benchmarks.torch_resnet18 import TorchStep, torch

    # Our step, as in a run.
    where = jax_setup.configure(run)
    where.check_batch(run)
    data = noise(4 * run.batch_size, image_size=image_size, num_classes=num_classes)
    program = program_of(run, data=data, where=where)

    # PyTorch's step, which begins with our weights.
    rng = np.random.default_rng(0)
    shape = (run.batch_size, image_size, image_size, 3)
    images = rng.standard_normal(shape, dtype=np.float32)  # (batch, rows, columns, 3)
    labels = np.arange(run.batch_size) % num_classes  # (batch,)
    theirs = TorchStep(
        network, scheme, num_classes=num_classes, images=images, labels=labels
    )
    _check_losses(program, theirs, images=images, labels=labels)

    # The first step of each is not measured.
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
    """The network and the scheme of a run that `torch_resnet18` implements.

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
    """Whether `torch_resnet18` implements the settings of a training of ResNet18."""
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
    """Copies our initial weights to PyTorch, and compares the losses.

    Raises RuntimeError where they differ: times could not be compared then.
    """
    # (names of the modules, name of the array) -> our parameter.
    variables = program.create(0).variables
    params = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
        params[tuple(key.key for key in path)] = np.asarray(leaf)
    theirs.load(params)

    # The cross-entropy of both; batch norm uses the statistics of the batch.
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
