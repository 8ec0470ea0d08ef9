"""Search algorithms, one file each, and the table that `config.searcher.name` chooses from."""

from bnas_jax.search.bnas import Bnas
from bnas_jax.search.searcher import Progress, Searcher, Stage

SEARCHERS: dict[str, type[Searcher]] = {
    "bnas": Bnas,
}

__all__ = ["SEARCHERS", "Bnas", "Progress", "Searcher", "Stage"]
