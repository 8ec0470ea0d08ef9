"""The settings of a run, by the kind of run: `search` or `train`.

Each setting is defined once, with its check, as a field of a frozen dataclass that
`resolve.from_config` makes. Schemes, searchers and networks have settings of their own,
see `entries`.
"""

from bnas_jax.settings.search import SearchSettings
from bnas_jax.settings.train import TrainSettings

Settings = SearchSettings | TrainSettings
# The value of `config.task` -> the class of the run's settings.
TASKS: dict[str, type] = {"search": SearchSettings, "train": TrainSettings}
