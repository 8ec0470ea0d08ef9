"""The settings of a run by its task.

Each setting is written once, with its check, in a frozen dataclass that
`resolve.from_config` makes. A scheme, a searcher and a network bring their own
settings: they are entries of tables, see `entries`.
"""

from bnas_jax.settings.search import SearchSettings
from bnas_jax.settings.train import TrainSettings

Settings = SearchSettings | TrainSettings
# The settings by the value of `config.task`.
TASKS: dict[str, type] = {"search": SearchSettings, "train": TrainSettings}
