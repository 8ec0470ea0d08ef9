"""The settings of a run, read from a config file and the command line.

They are frozen dataclasses that check their values.
"""

from bnas_jax.settings.dataset import DatasetSettings, for_data, without_effect
from bnas_jax.settings.differences import (
    CHANGEABLE,
    Difference,
    differences,
    first_difference,
)
from bnas_jax.settings.old_names import OLD_NAMES, refuse_old_name
from bnas_jax.settings.resolve import from_config, resolve, to_dict
from bnas_jax.settings.run import CheckpointSettings, DistributedSettings, RunSettings
from bnas_jax.settings.schema import Settings
from bnas_jax.settings.search import (
    AS_OF,
    SELECT,
    AlphaSettings,
    SearchSettings,
    SupernetSettings,
    WeightSettings,
)
from bnas_jax.settings.train import OptimizerSettings, TeacherSettings, TrainSettings
from bnas_jax.settings.unread import unread

__all__ = [
    "AS_OF",
    "CHANGEABLE",
    "OLD_NAMES",
    "SELECT",
    "AlphaSettings",
    "CheckpointSettings",
    "DatasetSettings",
    "Difference",
    "DistributedSettings",
    "OptimizerSettings",
    "RunSettings",
    "SearchSettings",
    "Settings",
    "SupernetSettings",
    "TeacherSettings",
    "TrainSettings",
    "WeightSettings",
    "differences",
    "first_difference",
    "for_data",
    "from_config",
    "refuse_old_name",
    "resolve",
    "to_dict",
    "unread",
    "without_effect",
]
