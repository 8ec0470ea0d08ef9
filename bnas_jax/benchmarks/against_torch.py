"""The training step of XNOR-Net's ResNet18 beside the same in PyTorch, in turns; PyTorch is installed for this alone."""

import importlib.util

import jax
import numpy as np

from bnas_jax.baselines.resnet import ResNet18
from bnas_jax.benchmarks import measure
from bnas_jax.benchmarks.programs import noise, program_of
from bnas_jax.benchmarks.stepper import Stepper
from bnas_jax.core.errors import UserError
from bnas_jax.core.schemes import Xnor
from bnas_jax.runtime import devices
from bnas_jax.settings import SearchSettings, TrainSettings


def benchmark(
    run: SearchSettings | TrainSettings, *, image_size: int, num_classes: int, repeats: int
) -> dict:
    """Both steps' times in seconds and, under "ratio", PyTorch's over ours in each turn, on noise of this size.

    Raises `UserError` for a network or a scheme that was not written in PyTorch, and where PyTorch is not installed.
    """
    network, scheme = _known(run)
    # Known to be there now.
    from bnas_jax.benchmarks.torch_resnet18 import TorchStep, torch

    # Ours, as a run makes it, and theirs.
    where = devices.configure(run)
    where.check_batch(run)
    data = noise(4 * run.batch_size, image_size=image_size, num_classes=num_classes)
    program = program_of(run, data=data, where=where)
    ours = Stepper(program, where)
    theirs = TorchStep(
        network,
        scheme,
        batch_size=run.batch_size,
        image_size=image_size,
        num_classes=num_classes,
    )
    _check_parameters(program.create, theirs.parameters)

    # A first step of each, which is not measured.
    ours.step()
    theirs.step()
    of_ours, of_theirs = measure.in_turns([ours.step, theirs.step], repeats)
    ratios = np.divide(of_theirs, of_ours)
    return {
        "batch_size": run.batch_size,
        "network": f"ResNet18 of {network.width} channels, {image_size}x{image_size} images",
        "step_seconds": measure.summary(of_ours),
        "torch_step_seconds": measure.summary(of_theirs),
        "torch_threads": torch.get_num_threads(),
        "ratio": measure.summary(list(ratios)),
        "conditions": measure.conditions("torch"),
    }


def _known(run: SearchSettings | TrainSettings) -> tuple[ResNet18, Xnor]:
    """The network and the scheme; `UserError` unless PyTorch is there and has both."""
    if not _is_known(run.network, run.scheme):
        raise UserError(
            "--against=torch knows one network: --config=configs/baselines.py:resnet18 with the scheme xnor"
        )
    if importlib.util.find_spec("torch") is None:
        raise UserError("--against=torch needs PyTorch: pip install torch")
    assert isinstance(run.network, ResNet18) and isinstance(run.scheme, Xnor)
    return run.network, run.scheme


def _is_known(network: object, scheme: object) -> bool:
    """Whether `torch_resnet18` has the network with the scheme."""
    if not isinstance(network, ResNet18) or network.imagenet:
        return False
    if network.block not in (None, "xnor") or network.float_shortcut is False:
        return False
    return type(scheme) is Xnor and scheme.weight_gradient == "bnas"


def _check_parameters(create, theirs: int) -> None:
    """Both have the same number of parameters, or the comparison would mean nothing."""
    shapes = jax.eval_shape(create, 0)
    ours = sum(leaf.size for leaf in jax.tree.leaves(shapes.params))
    assert ours == theirs, f"{ours} parameters, and {theirs} in PyTorch"
