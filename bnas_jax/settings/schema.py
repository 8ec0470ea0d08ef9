"""The settings of a run, each written once, with its check: frozen dataclasses that
`resolve.from_config` makes.

A scheme, a searcher and a network bring their own settings: they are entries of tables,
see `entries`.
"""

from bnas_jax.settings.search import SearchSettings
from bnas_jax.settings.train import TrainSettings

Settings = SearchSettings | TrainSettings
# By the value of `config.task`.
TASKS: dict[str, type] = {"search": SearchSettings, "train": TrainSettings}
