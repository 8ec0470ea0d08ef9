"""Search algorithms, one file each, and the table of them, `SEARCHERS`.

`config.searcher.name` chooses from the table.
"""

from bnas_jax.search.bnas import Bnas
from bnas_jax.search.darts import Darts
from bnas_jax.search.gdas import Gdas
from bnas_jax.search.random import Random
from bnas_jax.search.random_trained import RandomTrained
from bnas_jax.search.searcher import Progress, Searcher, Stage
from bnas_jax.search.snas import Snas

SEARCHERS: dict[str, type[Searcher]] = {
    "bnas": Bnas,
    "darts": Darts,
    "snas": Snas,
    "gdas": Gdas,
    "random": Random,
    "random_trained": RandomTrained,
}

__all__ = [
    "SEARCHERS",
    "Bnas",
    "Darts",
    "Gdas",
    "Progress",
    "Random",
    "RandomTrained",
    "Searcher",
    "Snas",
    "Stage",
]
