"""The settings of a training."""

import dataclasses

import jax.numpy as jnp

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.errors import UserError
from bnas_jax.core.networks import NetworkSettings
from bnas_jax.settings.checks import choice, clipping, positive, rates, require, shares
from bnas_jax.settings.recipes import NO_RECIPE
from bnas_jax.settings.run import RunSettings

OPTIMIZERS = ("sgd", "adam")
SCHEDULES = ("one_cycle", "cosine_restarts", "cosine", "linear", "steps")
DECAYED = ("all", "kernels")


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """What moves the final network's weights. name: `sgd` with momentum, or `adam`; both as in PyTorch.

    schedule: of the learning rate, one of

    - one_cycle: low -> learning_rate -> low over 1 - tail of the steps, then low -> min_learning_rate;
    - cosine: from learning_rate to min_learning_rate; cosine_restarts: the same every `cycle_epochs`;
    - linear: from learning_rate to min_learning_rate;
    - steps: learning_rate, multiplied by decay_factor at each of decay_epochs.

    schedule_by: a cosine or linear schedule changes at each `step` or each `epoch`; by epoch, first_epoch says where on it
    the first one lies: 0, or 1 where a code steps its scheduler beforehand. momentum, nesterov: of SGD; momentum_low: the
    momentum at the cycle's top, None keeps `momentum`. beta1, beta2, eps: of Adam. weight_decay: is added to the gradient;
    decayed: which parameters, see `training.optimizers.with_decay`. auxiliary_weight: of the loss at an auxiliary classifier,
    where the network has one.
    """

    schedule: str
    learning_rate: float
    name: str = "sgd"
    low_learning_rate: float = 0.0
    min_learning_rate: float = 0.0
    tail: float = 0.0
    cycle_epochs: int = 50
    decay_epochs: tuple[int, ...] = ()
    decay_factor: float = 0.1
    schedule_by: str = "step"
    first_epoch: int = 0
    momentum: float = 0.9
    momentum_low: float | None = None
    nesterov: bool = False
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    decayed: str = "all"
    clip_norm: float | None = None
    label_smoothing: float = 0.0
    drop_path: float = 0.0
    auxiliary_weight: float = 0.4

    def __post_init__(self):
        prefix = "config.optimizer"
        choice(f"{prefix}.name", self.name, OPTIMIZERS)
        choice(f"{prefix}.schedule", self.schedule, SCHEDULES)
        choice(f"{prefix}.schedule_by", self.schedule_by, ("step", "epoch"))
        choice(f"{prefix}.first_epoch", self.first_epoch, (0, 1))
        choice(f"{prefix}.decayed", self.decayed, DECAYED)
        rates(prefix, self, "learning_rate", "decay_factor", "eps")
        rates(
            prefix,
            self,
            "low_learning_rate",
            "min_learning_rate",
            "weight_decay",
            "auxiliary_weight",
            least=0,
        )
        low = () if self.momentum_low is None else ("momentum_low",)
        shares(
            prefix, self, "momentum", *low, "beta1", "beta2", "label_smoothing", "drop_path", "tail"
        )
        clipping(prefix, self)
        positive(prefix, self, "cycle_epochs")
        self._check_schedule()

    def _check_schedule(self) -> None:
        prefix = "config.optimizer"
        by_epoch = self.schedule in ("cosine", "linear")
        message = (
            f"{prefix}.schedule_by=epoch is of the schedules cosine and linear, got {self.schedule}"
        )
        require(by_epoch or self.schedule_by == "step", message)
        message = f"{prefix}.first_epoch={self.first_epoch} has no effect without {prefix}.schedule_by=epoch"
        require(not self.first_epoch or self.schedule_by == "epoch", message)
        epochs = list(self.decay_epochs)
        wanted = f"{prefix}.decay_epochs must be growing numbers from 1 on"
        require(
            epochs == sorted(set(epochs)) and min(epochs, default=1) >= 1, f"{wanted}, got {epochs}"
        )
        require(
            self.schedule != "steps" or epochs,
            f"{prefix}.schedule=steps needs {prefix}.decay_epochs, such as 60,120",
        )
        message = f"{prefix}.nesterov needs a momentum; write {prefix}.momentum=0.9"
        require(not self.nesterov or self.momentum > 0, message)


@dataclasses.dataclass(frozen=True)
class TrainSettings(RunSettings):
    """The training of a final network. network: an entry of `networks.NETWORKS`. recipe: see `recipes.RECIPES`.

    activations: type of the numbers that layers hand on, which are most of what accelerators store and move: float32, or
    bfloat16, half of it. What layers compute within, parameters and statistics keep `precision`. None is that of `precision`.
    """

    network: NetworkSettings
    optimizer: OptimizerSettings
    recipe: str = NO_RECIPE
    activations: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.activations is not None:
            choice("config.activations", self.activations, ("float32", "bfloat16"))
            require(
                self.precision != "float64",
                f"config.activations={self.activations} is for another precision than float64; leave it out",
            )
        epochs = self.optimizer.decay_epochs
        if self.optimizer.schedule == "steps" and max(epochs) >= self.num_epochs:
            written = ",".join(map(str, epochs))
            raise UserError(
                f"config.optimizer.decay_epochs={written} are not all below config.num_epochs={self.num_epochs};"
                " write smaller ones, or another config.optimizer.schedule"
            )
        drops = self.network.drops_paths or self.optimizer.drop_path == 0
        require(drops, "config.optimizer.drop_path is of networks of cells; write 0 for this one")

    def arithmetic(self, axis: str | None = None) -> Arithmetic:
        """See `RunSettings.arithmetic`."""
        arithmetic = super().arithmetic(axis)
        if self.activations != "bfloat16":
            return arithmetic
        return dataclasses.replace(arithmetic, activations=jnp.bfloat16)
