"""Random search that trains each candidate.

Whole runs, whose weights begin anew between epochs.
"""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from counted_runs import same
from small_runs import DRAWN, SIZES, read, records
from work_directories import arrays

import bnas_jax as bnas
from bnas_jax import settings
from bnas_jax.__main__ import run as command
from bnas_jax.core.errors import UserError
from bnas_jax.search import RandomTrained
from bnas_jax.search.random import genotype_of, sample
from bnas_jax.training import build, build_optimizers
from bnas_jax.training.derive import Rule, taken
from bnas_jax.training.restarts import restarted
from bnas_jax.training.state import initial_variables
from configs import search as presets

STEPS = 14  # an epoch: half of 1,437 examples in batches of 50
TYPES = ("none", "bin_conv_3x3")


def arguments(workdir) -> list[str]:
    """Two candidates of one epoch each, with a save in the middle of the second."""
    return [
        "search",
        "--config=search:digits_random_trained",
        f"--workdir={workdir}",
        *SIZES,
        *DRAWN,
        "--config.network.num_cells=3",
        f"--config.network.layer_types={TYPES}",
        "--config.batch_size=50",
        "--config.searcher.candidate_epochs=1",
        # Traced faster than `chosen`.
        "--config.network.edges=shared",
        "--config.checkpoint_every_steps=10",
        "--config.checkpoint.keep_last=4",
    ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory, quick_compilation, own_compilation_cache):
    """The work directory of a search."""
    workdir = tmp_path_factory.mktemp("random") / "run"
    assert command(arguments(workdir)) == 0
    return workdir


@pytest.mark.long
def test_each_candidate_is_validated_after_its_training_and_the_best_is_taken(finished):
    with np.load(finished / "alphas.npz") as stored:
        history = {name: stored[name] for name in ("normal", "reduce")}
        valid_top1 = stored["valid_top1"]

    # Row 0 is the first candidate before its epoch, row 1 after it.
    assert np.array_equal(history["normal"][0], history["normal"][1])
    assert not np.array_equal(history["normal"][1], history["normal"][2])

    # Each epoch's record has its cell, and the best of them is that of the search.
    written = records(finished)
    assert np.allclose(valid_top1, [record["valid_top1"] for record in written])
    for epoch, record in enumerate(written):
        weights = {name: rows[epoch + 1] for name, rows in history.items()}
        assert record["genotype"] == genotype_of(weights, TYPES).to_dict()
    best = written[int(np.argmax(valid_top1))]
    found = read(finished / "genotype.json")
    assert {name: found[name] for name in ("normal", "reduce")} == best["genotype"]


@pytest.mark.long
def test_the_next_candidate_begins_with_the_first_weights_and_trains(finished):
    run = settings.from_config(read(finished / "config.json"))
    model = build.supernet(run, num_classes=10)
    first = jax.device_get(initial_variables(model, (8, 8, 1), seed=run.seed))

    between = arrays(finished, STEPS)
    assert same(between["variables"]["params"], first["params"])
    assert same(between["variables"]["batch_stats"], first["batch_stats"])
    moments = jax.tree.leaves(between["rest"]["opt_state"])
    assert not any(np.any(value) for value in moments)

    within = arrays(finished, 20)
    assert not same(within["variables"]["params"], first["params"])


@pytest.mark.long
def test_a_search_that_was_stopped_goes_on_bit_for_bit(finished, tmp_path):
    workdir = shutil.copytree(finished, tmp_path / "run")
    # As if it had been killed after its first save, before the first candidate had
    # ended.
    saved = {
        path.name for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()
    }
    assert saved == {"10", "14", "20", "28"}
    for path in (workdir / "checkpoints").iterdir():
        if path.name != "10":
            shutil.rmtree(path)
    for name in ("summary.json", "genotype.json", "alphas.npz", "metrics.jsonl"):
        (workdir / name).unlink()

    assert command(arguments(workdir)) == 0

    assert same(arrays(workdir, 2 * STEPS), arrays(finished, 2 * STEPS))
    assert records(workdir) == records(finished)
    assert read(workdir / "genotype.json") == read(finished / "genotype.json")


@pytest.fixture(scope="module")
def ended():
    """(a step, its first state, the state after two candidates of two epochs each).

    The weights are zeros at first, and ones then.
    """
    step = step_of(RandomTrained(candidate_epochs=2))
    shapes = jax.eval_shape(lambda: step.init(image_shape=(8, 8, 1)))
    first = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    later = jax.tree.map(lambda leaf: leaf + jnp.ones((), leaf.dtype), first)
    rows = jnp.arange(5.0)[:, None, None]  # row e is alpha after e epochs
    history = jax.tree.map(lambda cell: cell * rows, later.history)
    later = later.replace(
        history=history, valid_top1=jnp.array([-jnp.inf, 20, -jnp.inf, 40])
    )
    return step, first, later


def step_of(searcher) -> bnas.SearchStep:
    return bnas.SearchStep(
        bnas.Supernet(num_cells=3, channels=2, num_classes=10, layer_types=TYPES),
        searcher,
        weights=bnas.latent_sgd(0.1, momentum=0.9),
        alphas=optax.sgd(0.1),
        num_epochs=4,
    )


def test_a_restart_takes_the_first_weights_and_draws_another_alpha_each_time(ended):
    step, first, later = ended

    found = [restarted(step, later, first, number=number) for number in (1, 2, 2)]

    for state in found:
        for name in ("params", "batch_stats", "opt_state"):
            assert same(getattr(state, name), getattr(first, name))
        assert state.step == 1 and same(state.history, later.history)
    assert same(found[1].alphas, found[2].alphas)
    assert not same(found[0].alphas, found[1].alphas)


@dataclasses.dataclass(frozen=True)
class Sum(RandomTrained):
    """The next candidate is the sum of all before it, times their accuracies."""

    def restart(self, key, tried, dtype=jnp.float32):
        cells = {}
        for name in self.searched:
            cells[name] = np.sum([one.alphas[name] * one.top1 for one in tried], axis=0)
        return cells


def test_a_searcher_may_make_the_next_candidate_of_all_before_it(ended):
    _, first, later = ended
    step = step_of(Sum(candidate_epochs=2))

    found = [restarted(step, later, first, number=number) for number in (1, 2)]

    # The candidates' alphas are 2 and 4, their accuracies 20 and 40.
    for state, expected in zip(found, (2 * 20, 2 * 20 + 4 * 40), strict=True):
        for cell in state.alphas.values():
            assert cell.dtype == jnp.float32 and np.all(cell == expected)


def test_the_learning_rate_falls_within_each_training():
    config = presets.get_config("digits_random_trained")
    long = settings.from_config(config)
    config.num_epochs = config.searcher.candidate_epochs
    short = settings.from_config(config)
    expected = [
        float(build_optimizers.learning_rate(short, 7)(step)) for step in range(3 * 7)
    ]
    # Of all steps of the run, as a change of the settings tells it.
    found = [
        float(build_optimizers.learning_rate(long, 7)(step))
        for step in range(5 * 3 * 7)
    ]
    assert found == 5 * expected and found[0] > found[7] > found[14]


def test_alpha_before_an_epoch_may_be_that_of_another_candidate():
    """The cell that is taken is the one that was validated.

    Whatever `alphas_as_of` says.
    """
    drawn = [sample(jax.random.key(number), len(TYPES)) for number in (0, 0, 1)]
    history = {
        name: np.stack([cell[name] for cell in drawn]) for name in ("normal", "reduce")
    }
    history["valid_top1"] = np.array([10.0, 20.0])
    searcher = RandomTrained(layer_types=TYPES, candidate_epochs=1)

    found = [
        taken(searcher, Rule(epoch="best", as_of=of), history)
        for of in ("before", "after")
    ]

    second = genotype_of(drawn[2], TYPES).to_dict()
    assert found[0] == found[1] and found[0]["epoch"] == 1
    assert (
        found[0]["normal"]
        == second["normal"]
        != genotype_of(drawn[1], TYPES).to_dict()["normal"]
    )


def test_a_candidate_is_a_cell_of_the_grammar_whose_weights_no_relaxation_changes():
    searcher = RandomTrained(layer_types=TYPES)
    alphas = searcher.init(jax.random.key(3), jnp.float32)
    drawn = sample(jax.random.key(3), len(TYPES))
    assert all(
        np.array_equal(alphas[name], drawn[name]) for name in ("normal", "reduce")
    )
    assert searcher.weights(alphas, None, None) == alphas
    assert searcher.derive(alphas) == genotype_of(drawn, TYPES)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"searcher.candidate_epochs": 0},
            "config.searcher.candidate_epochs must be at least 1, got 0",
        ),
        ({"searcher.candidate_epochs": 4}, "write config.num_epochs=16"),
        ({"select": "last"}, "config.select=last would take the last candidate"),
    ],
)
def test_what_does_not_fit_is_refused(changed, message):
    config = presets.get_config("digits_random_trained")
    config.update_from_flattened_dict(changed)
    with pytest.raises(UserError, match=message):
        settings.from_config(config)
