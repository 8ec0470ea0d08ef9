"""The settings of a training."""

import dataclasses

import jax.numpy as jnp

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.checks import choice, clipping, positive, rates, require, shares
from bnas_jax.core.errors import UserError
from bnas_jax.core.first_weights import FIRST_WEIGHTS
from bnas_jax.core.losses import LOSSES
from bnas_jax.core.networks import NetworkSettings
from bnas_jax.settings.recipes import NO_RECIPE
from bnas_jax.settings.run import RunSettings

OPTIMIZERS = ("sgd", "adam")
SCHEDULES = ("one_cycle", "cosine_restarts", "cosine", "linear", "steps")
DECAYED = ("all", "kernels")


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """The optimizer of the final network's weights, and its schedules."""

    # The learning rate over the training:
    # - one_cycle: low_learning_rate -> learning_rate -> low_learning_rate over 1 - tail
    #   of the steps, then -> min_learning_rate;
    # - cosine: half a cosine from learning_rate to min_learning_rate;
    # - cosine_restarts: the same, again every `cycle_epochs`;
    # - linear: a line from learning_rate to min_learning_rate;
    # - steps: learning_rate, multiplied by decay_factor at each of decay_epochs.
    schedule: str
    learning_rate: float

    # `sgd` with momentum, or `adam`; both as in PyTorch.
    name: str = "sgd"

    # Parameters of these schedules; each schedule reads only its own.
    low_learning_rate: float = 0.0
    min_learning_rate: float = 0.0
    tail: float = 0.0
    cycle_epochs: int = 50
    decay_epochs: tuple[int, ...] = ()
    decay_factor: float = 0.1

    # Whether a cosine or linear schedule changes at each `step` or each `epoch`.
    schedule_by: str = "step"
    # With schedule_by="epoch": the position of the first epoch on the schedule. It is
    # 0, or 1 as in code that steps its scheduler before each epoch.
    first_epoch: int = 0

    # Parameters of SGD.
    momentum: float = 0.9
    # The momentum where a one-cycle rate is highest; None keeps `momentum` throughout.
    momentum_low: float | None = None
    nesterov: bool = False

    # Parameters of Adam.
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8

    # The factor of an L2 term: the gradient of the parameters that `decayed` names gets
    # this times the parameter, see `training.optimizers.with_decay`.
    weight_decay: float = 0.0
    decayed: str = "all"
    # The largest global norm of the gradient; None does not clip.
    clip_norm: float | None = None

    # The loss with the labels, a key of `losses.LOSSES`, and its smoothing.
    loss: str = "cross_entropy"
    label_smoothing: float = 0.0
    # The drop-path probability in epoch e, from 0 on, is drop_path * e / num_epochs.
    drop_path: float = 0.0
    # The factor of the auxiliary classifier's loss, if the network has one.
    auxiliary_weight: float = 0.4

    def __post_init__(self):
        prefix = "config.optimizer"
        choice(f"{prefix}.name", self.name, choices=OPTIMIZERS)
        choice(f"{prefix}.schedule", self.schedule, choices=SCHEDULES)
        choice(f"{prefix}.schedule_by", self.schedule_by, choices=("step", "epoch"))
        choice(f"{prefix}.first_epoch", self.first_epoch, choices=(0, 1))
        choice(f"{prefix}.decayed", self.decayed, choices=DECAYED)
        choice(f"{prefix}.loss", self.loss, choices=tuple(LOSSES))

        # Numbers > 0, numbers >= 0, and numbers in [0, 1).
        rates(prefix, self, "learning_rate", "decay_factor", "eps")
        rates(prefix, self, "low_learning_rate", "min_learning_rate", least=0)
        rates(prefix, self, "weight_decay", "auxiliary_weight", least=0)
        momenta = ["momentum"]
        if self.momentum_low is not None:
            momenta.append("momentum_low")
        shares(prefix, self, *momenta, "beta1", "beta2")
        shares(prefix, self, "label_smoothing", "drop_path", "tail")
        clipping(prefix, self)
        positive(prefix, self, "cycle_epochs")
        self._check_schedule()

    def _check_schedule(self) -> None:
        """Raises `UserError` for settings that do not fit the schedule.

        That includes some without effect, which the user would believe to have one.
        """
        prefix = "config.optimizer"
        # Schedules that may change by epoch.
        by_epoch = self.schedule in ("cosine", "linear")
        message = (
            f"{prefix}.schedule_by=epoch is of the schedules cosine and linear, got "
            f"{self.schedule}"
        )
        require(by_epoch or self.schedule_by == "step", message)
        message = (
            f"{prefix}.first_epoch={self.first_epoch} has no effect without "
            f"{prefix}.schedule_by=epoch"
        )
        require(not self.first_epoch or self.schedule_by == "epoch", message)

        # The epochs of the schedule `steps`.
        epochs = list(self.decay_epochs)
        growing = epochs == sorted(set(epochs)) and min(epochs, default=1) >= 1
        wanted = f"{prefix}.decay_epochs must be growing numbers from 1 on"
        require(growing, f"{wanted}, got {epochs}")
        message = f"{prefix}.schedule=steps needs {prefix}.decay_epochs, such as 60,120"
        require(self.schedule != "steps" or epochs, message)

        message = f"{prefix}.nesterov needs a momentum; write {prefix}.momentum=0.9"
        require(not self.nesterov or self.momentum > 0, message)


@dataclasses.dataclass(frozen=True)
class TeacherSettings:
    """The teacher: a trained network to learn from, see `training.teacher`.

    Without `workdir` there is no teacher.
    """

    # The work directory of the teacher's training or import.
    workdir: str | None = None
    # The checkpoint: `best`, `last` or a step.
    step: str = "last"
    # The loss is share * (cross-entropy with the teacher's probabilities) +
    # (1 - share) * (cross-entropy with the labels).
    share: float = 1.0
    # In the teacher's term, the logits of both networks are divided by the temperature,
    # and the term is multiplied by the squared temperature.
    temperature: float = 1.0

    def __post_init__(self):
        prefix = "config.teacher"
        rates(prefix, self, "share", "temperature")
        require(self.share <= 1, f"{prefix}.share must be at most 1, got {self.share}")
        # At high temperatures the loss approaches the squared difference of the logits,
        # and the factor (the squared temperature) makes it huge.
        message = f"{prefix}.temperature must be at most 20, got {self.temperature}"
        require(self.temperature <= 20, message)
        if self.workdir is not None:
            return

        # Without a teacher, the other settings must have their defaults.
        for name, default in (("step", "last"), ("share", 1.0), ("temperature", 1.0)):
            message = (
                f"{prefix}.{name} has no effect without a teacher; write "
                f"{prefix}.workdir=DIR, too"
            )
            require(getattr(self, name) == default, message)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSettings(RunSettings):
    """The settings of the training of a final network."""

    # An entry of `networks.NETWORKS`.
    network: NetworkSettings
    optimizer: OptimizerSettings
    teacher: TeacherSettings = dataclasses.field(default_factory=TeacherSettings)
    # A key of `recipes.RECIPES`, or `NO_RECIPE`.
    recipe: str = NO_RECIPE
    # A key of `first_weights.FIRST_WEIGHTS`; by default the recipe's, else PyTorch's.
    first_weights: str
    # The type of the activations between layers, which take most of an accelerator's
    # memory and bandwidth: float32, or bfloat16 for half of both. Parameters,
    # statistics, and the arithmetic within convolutions and batch norms keep
    # `precision`. None is float32, or float64 with that precision.
    activations: str | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.activations is not None:
            kinds = ("float32", "bfloat16")
            choice("config.activations", self.activations, choices=kinds)
            message = (
                f"config.activations={self.activations} is for another precision than "
                "float64; leave it out"
            )
            require(self.precision != "float64", message)

        rules = tuple(FIRST_WEIGHTS)
        choice("config.first_weights", self.first_weights, choices=rules)

        # The last decay must come before the end of the training.
        epochs = self.optimizer.decay_epochs
        if self.optimizer.schedule == "steps" and max(epochs) >= self.num_epochs:
            written = ",".join(map(str, epochs))
            raise UserError(
                f"config.optimizer.decay_epochs={written} are not all below "
                f"config.num_epochs={self.num_epochs}; write smaller ones, or another "
                "config.optimizer.schedule"
            )

        # A rate without effect could make a comparison wrong.
        drops = self.network.drops_paths or self.optimizer.drop_path == 0
        message = (
            "config.optimizer.drop_path is of networks of cells; write 0 for this one"
        )
        require(drops, message)

    def arithmetic(self, axis: str | None = None) -> Arithmetic:
        """See `RunSettings.arithmetic`."""
        arithmetic = super().arithmetic(axis)
        if self.activations != "bfloat16":
            return arithmetic
        return dataclasses.replace(arithmetic, activations=jnp.bfloat16)
