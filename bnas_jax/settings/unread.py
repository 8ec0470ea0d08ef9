"""The settings that a run never reads, given its other settings.

Adam, for instance, never reads the momentum. A user who sets it on the command line has
probably made a mistake, so `cli.configs` refuses it.
"""

from bnas_jax.search.searcher import ALPHAS
from bnas_jax.settings.schema import Settings
from bnas_jax.settings.search import SearchSettings
from bnas_jax.settings.train import OptimizerSettings, TrainSettings

# Settings of `config.optimizer`, and the schedules that read them. Other schedules do
# not.
_BY_SCHEDULE = {
    "low_learning_rate": ("one_cycle",),
    "momentum_low": ("one_cycle",),
    "tail": ("one_cycle",),
    "min_learning_rate": ("one_cycle", "cosine", "cosine_restarts", "linear"),
    "cycle_epochs": ("cosine_restarts",),
    "decay_epochs": ("steps",),
    "decay_factor": ("steps",),
}
# Settings of `config.optimizer`, and the only optimizer that reads them.
_BY_OPTIMIZER = {
    "momentum": "sgd",
    "momentum_low": "sgd",
    "nesterov": "sgd",
    "beta1": "adam",
    "beta2": "adam",
    "eps": "adam",
}


def unread(run: Settings) -> dict[str, str]:
    """The settings that a run never reads, and the setting with which it would.

    The names lack `config.`. The name of a group stands for all settings in it.
    For a run with the schedule `cosine`, "optimizer.tail" has the value
    "config.optimizer.schedule=one_cycle".
    """
    if isinstance(run, SearchSettings):
        return _unread_by_search(run)
    return _unread_by_optimizer(run.optimizer) | _unread_by_loss(run)


def _unread_by_search(run: SearchSettings) -> dict[str, str]:
    """`unread` of a search."""
    # Random searches have no alpha, or draw it anew for each candidate.
    if not any(ALPHAS in stage.moves for stage in run.searcher.stages):
        return dict.fromkeys(("alphas", "alphas_as_of"), "config.searcher.name=bnas")
    if run.alphas.optimizer == "sgd":
        adam = "config.alphas.optimizer=adam"
        return {"alphas.beta1": adam, "alphas.beta2": adam}
    return {}


def _unread_by_optimizer(settings: OptimizerSettings) -> dict[str, str]:
    """`unread` of the optimizer of a training."""
    found = {}
    for name, schedules in _BY_SCHEDULE.items():
        if settings.schedule not in schedules:
            written = " or ".join(schedules)
            found[f"optimizer.{name}"] = f"config.optimizer.schedule={written}"
    for name, optimizer in _BY_OPTIMIZER.items():
        if settings.name != optimizer:
            found[f"optimizer.{name}"] = f"config.optimizer.name={optimizer}"
    return found


def _unread_by_loss(run: TrainSettings) -> dict[str, str]:
    """`unread` of the loss of a training."""
    found = {}
    # Hand-crafted networks have no such setting.
    auxiliary = getattr(run.network, "auxiliary", None)
    if auxiliary is False:
        found["optimizer.auxiliary_weight"] = "config.network.auxiliary=True"

    # With the share 1, a teacher replaces the labels, except in the auxiliary loss.
    teacher = run.teacher
    if teacher.workdir is not None and teacher.share == 1 and not auxiliary:
        shared = "config.teacher.share=0.9"
        found["optimizer.loss"] = found["optimizer.label_smoothing"] = shared
    return found
