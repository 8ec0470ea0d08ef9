"""Searchers as pure functions: what they draw, derive, add and choose.

They are compared with numbers that the published codes of DARTS, SNAS, GDAS and random
search with shared weights gave; derivations and samples.npz hold them.
"""

import dataclasses
import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bnas_jax.core import genotype as genotype_lib
from bnas_jax.core.alphas import ENTROPIES, entropy
from bnas_jax.core.errors import UserError
from bnas_jax.core.genotype import EDGES, FIXED_REDUCTION, Genotype
from bnas_jax.core.supernet import Supernet
from bnas_jax.search import (
    Bnas,
    Darts,
    Gdas,
    Progress,
    Random,
    Searcher,
    Snas,
    gumbel,
)
from bnas_jax.search import random as random_lib
from bnas_jax.search.costs import Costs, costs, resource_loss

CELLS = ("normal", "reduce")


@pytest.fixture(scope="module")
def samples(reference) -> dict[str, np.ndarray]:
    with np.load(reference / "searchers" / "samples.npz", allow_pickle=False) as stored:
        return dict(stored)


def pairs(cell) -> list[tuple[str, int]]:
    return [(edge.layer_type, edge.source) for edge in genotype_lib.edges(cell)]


def named(cell: np.ndarray, primitives) -> list[tuple[str, int]]:
    """(operation, input) pairs of numbers, by their names."""
    return [(str(primitives[operation]), int(source)) for operation, source in cell]


# Derivation


@pytest.mark.parametrize(
    ("file", "searcher", "alphas", "genotype"),
    [
        ("darts", Darts, "alphas_{}", "genotype_{}"),
        ("gdas", Gdas, "alphas_{}", "genotype_{}"),
        ("snas", Snas, "{}_log_alpha", "edge_all_{}"),
    ],
)
def test_the_genotype_is_that_of_the_published_code(
    reference, file, searcher, alphas, genotype
):
    """Of twenty random alphas, some with ties everywhere or Zeroise always largest."""
    with np.load(
        reference / "searchers" / f"{file}_derivation.npz", allow_pickle=False
    ) as stored:
        types = tuple(str(name) for name in stored["primitives"])
        for row in range(20):
            derived = searcher(layer_types=types).derive(
                {name: stored[alphas.format(name)][row] for name in CELLS}
            )
            for name in CELLS:
                expected = named(stored[genotype.format(name)][row], types)
                assert pairs(getattr(derived, name)) == expected, (row, name)


@dataclasses.dataclass(frozen=True)
class EdgeWeights(Searcher):
    """A user's, with a learned weight of each edge beside alpha."""

    def init(self, key, dtype=jnp.float32):
        edges = {f"{name}_edges": jnp.zeros(len(EDGES), dtype) for name in CELLS}
        return {**super().init(key, dtype), **edges}

    def weights(self, alphas, key, progress):
        weights = {}
        for name in self.searched:
            of_edges = jax.nn.sigmoid(alphas[f"{name}_edges"])[:, None]
            weights[name] = of_edges * jax.nn.softmax(alphas[name])
        return weights


def test_a_genotype_is_derived_from_the_searchers_own_weights():
    """Its arrays beside alpha have a say in it, and no part in alpha's entropy."""
    searcher = EdgeWeights()
    alphas = jax.tree.map(jnp.zeros_like, searcher.init(jax.random.key(0)))
    # The last node's edges from the two nodes before it.
    alphas["normal_edges"] = alphas["normal_edges"].at[-2:].set(3.0)
    record = searcher.record(alphas)
    assert record["alpha_entropy"] == pytest.approx(np.log(7))
    assert sorted(source for _, source in record["genotype"]["normal"][-2:]) == [3, 4]
    assert sorted(source for _, source in record["genotype"]["reduce"][-2:]) == [0, 1]


def test_alphas_of_other_names_and_nan_give_no_genotype():
    searcher = Darts()
    alphas = searcher.init(jax.random.key(0))
    for wrong in (SimpleNamespace(alphas=alphas), {"normal": alphas["normal"]}, None):
        with pytest.raises(UserError, match="derive takes alphas such as"):
            searcher.derive(wrong)
    alphas["reduce"] = alphas["reduce"].at[0, 0].set(jnp.nan)
    with pytest.raises(UserError, match="alphas of reduce are NaN: the search has div"):
        searcher.derive(alphas)


def test_snas_keeps_every_edge_and_darts_may_keep_zeroise(reference):
    with np.load(
        reference / "searchers" / "snas_derivation.npz", allow_pickle=False
    ) as stored:
        types = tuple(str(name) for name in stored["primitives"])
        for row in range(20):
            alphas = {name: stored[f"{name}_log_alpha"][row] for name in CELLS}
            assert [
                len(node) for node in Snas(layer_types=types).derive(alphas).normal
            ] == [
                2,
                3,
                4,
                5,
            ]
            # SNAS publishes the two strongest edges a node, too.
            two = Darts(layer_types=types, keep_zeroise=True).derive(alphas)
            assert pairs(two.normal) == named(stored["genotype_normal"][row], types)


@pytest.mark.parametrize("searcher", [Bnas(), Darts(), Gdas(), Snas(), Random()])
def test_beside_a_fixed_reduction_cell_the_normal_cell_alone_is_searched(searcher):
    types = ("none", "bin_conv_3x3")
    found = searcher.of(SimpleNamespace(layer_types=types, fixed_reduction=True))
    alphas, progress = found.init(jax.random.key(0)), Progress(jnp.array(0), 2)
    assert set(alphas) == ({"normal"} if searcher.has_alphas else set())
    assert set(found.weights(alphas, jax.random.key(1), progress)) == {"normal"}
    if searcher.has_alphas:
        assert found.derive(alphas).reduce == FIXED_REDUCTION
        assert (
            0 < found.record(alphas)["alpha_entropy"] < 0.7
            and found.regularizer(alphas, progress) <= 0
        )
    else:
        finished = dataclasses.replace(found, candidates=2, finalists=1).finish(
            jax.random.key(0), lambda *_: 10.0
        )
        assert (
            finished.genotype.reduce == FIXED_REDUCTION
            and finished.candidates[0]["reduce"] == FIXED_REDUCTION
        )


def test_the_alphas_of_snas_begin_around_one():
    """Drawn from N(1, 0.01^2)."""
    for alpha in Snas().init(jax.random.key(0)).values():
        assert abs(alpha.mean() - 1) < 4e-3
        assert alpha.std() == pytest.approx(0.01, rel=0.3)


def test_darts_has_no_regularizer_unless_it_is_asked_for():
    alphas, progress = Darts().init(jax.random.key(0)), Progress(jnp.array(0), 2)
    assert Darts().regularizer(alphas, progress) == 0
    assert Darts(diversity=1.0).regularizer(alphas, progress) < 0


def test_the_regularizer_takes_the_entropy_that_is_chosen():
    alphas = {name: jax.random.normal(jax.random.key(0), (14, 3)) for name in CELLS}
    for edges in ENTROPIES:
        searcher = Bnas(diversity=2.0, tau=3.0, entropy=edges)
        found = searcher.regularizer(alphas, Progress(jnp.array(1), 2))
        expected = -2 * entropy(alphas, edges=edges) * np.exp(-1 / 3)
        assert float(found) == pytest.approx(float(expected))


# Samples


def test_the_noise_of_the_two_cells_is_not_the_same():
    noise = gumbel.draw(jax.random.key(0), {name: jnp.zeros((14, 3)) for name in CELLS})
    assert not np.any(noise["normal"] == noise["reduce"])


def test_soft_samples_are_those_of_snas_for_the_same_noise(samples):
    for temperature in ("1", "0.5", "0.1", "0.03"):
        for name in CELLS:
            logits, noise = (
                samples[f"snas.{name}_log_alpha"],
                samples[f"snas.gumbel_{name}"],
            )
            found = gumbel.soft(logits, noise.astype(np.float32), float(temperature))
            assert np.allclose(
                found, samples[f"snas.weights.temp{temperature}.{name}"], atol=2e-5
            ), temperature


@pytest.mark.parametrize(
    ("draw", "tau"), [(0, "10"), (0, "1"), (0, "0.1"), (1, "1"), (2, "1")]
)
def test_hard_samples_are_those_of_gdas_for_the_same_noise(samples, draw, tau):
    for name in CELLS:
        noise = samples[f"gdas.gumbel_{name}"][draw]
        hard, chosen = gumbel.hard(
            samples[f"gdas.state.arch_{name}_parameters"], noise, float(tau)
        )
        assert np.array_equal(
            np.argmax(chosen, axis=-1),
            samples[f"gdas.draw{draw}.tau{tau}.chosen_{name}"],
        )
        assert np.allclose(
            hard, samples[f"gdas.draw{draw}.tau{tau}.hard_{name}"], atol=1e-6
        )


def test_the_gradient_of_a_hard_sample_is_that_of_the_softmax():
    draw = np.random.default_rng(0)
    logits, noise, tau = (
        draw.normal(size=5).astype(np.float32),
        draw.gumbel(size=5).astype(np.float32),
        0.7,
    )
    jacobian = jax.jacobian(lambda a: gumbel.hard(a, noise, tau)[0])(logits)
    p = np.exp((logits + noise) / tau) / np.exp((logits + noise) / tau).sum()
    # log_softmax shifts all logits alike, which a softmax does not see.
    assert np.allclose(jacobian, (np.diag(p) - np.outer(p, p)) / tau, atol=1e-6)


def test_gdas_weights_are_one_hot_and_only_the_chosen_ones_have_a_gradient():
    alphas = {
        name: jax.random.normal(jax.random.key(i), (14, 5))
        for i, name in enumerate(CELLS)
    }
    progress, key = Progress(jnp.array(3), 10), jax.random.key(4)
    searcher = Gdas()
    weights = searcher.weights(alphas, key, progress)
    again, other = (
        searcher.weights(alphas, key, progress),
        searcher.weights(alphas, jax.random.key(5), progress),
    )
    for name in CELLS:
        assert np.allclose(np.sort(weights[name]), [0, 0, 0, 0, 1], atol=1e-6)
        assert np.array_equal(weights[name], again[name]) and not np.array_equal(
            weights[name], other[name]
        )
        assert np.array_equal(
            searcher.weights(alphas, None, None)[name].argmax(-1),
            alphas[name].argmax(-1),
        )
    # What a layer that was not chosen gives out is no part of alpha's gradient.
    chosen = weights["normal"][0].argmax()
    for column in range(5):
        at_alpha = jax.grad(
            lambda a: searcher.weights({**alphas, "normal": a}, key, progress)[
                "normal"
            ][0, column]
        )
        assert bool(np.any(at_alpha(alphas["normal"]) != 0)) == (column == chosen)


def test_gdas_may_add_the_other_weights_which_are_zero_and_have_a_gradient():
    """The sum of all weights of an edge is one, and so is that of the softmax."""
    alphas = {
        name: jax.random.normal(jax.random.key(i), (14, 5))
        for i, name in enumerate(CELLS)
    }
    progress, key = Progress(jnp.array(3), 10), jax.random.key(4)
    searcher = Gdas(other_scalars=True)
    assert Gdas().scalars(alphas, key, progress) is None
    scalars = searcher.scalars(alphas, key, progress)
    assert scalars["reduce"].shape == (14,) and np.allclose(
        scalars["reduce"], 0, atol=1e-6
    )

    def total(added):
        def of(a):
            at = {**alphas, "normal": a}
            chosen = searcher.weights(at, key, progress)["normal"][0].sum()
            return chosen + (
                searcher.scalars(at, key, progress)["normal"][0] if added else 0
            )

        return jax.grad(of)(alphas["normal"])

    assert np.abs(total(added=False)).max() > 0.01 and np.allclose(
        total(added=True), 0, atol=1e-6
    )


def test_weights_in_an_evaluation_are_softmax_or_the_strongest():
    alphas = {name: jax.random.normal(jax.random.key(0), (14, 3)) for name in CELLS}
    for searcher in (Darts(), Snas()):
        assert np.allclose(
            searcher.weights(alphas, None, None)["reduce"],
            jax.nn.softmax(alphas["reduce"]),
        )
    assert np.array_equal(
        Gdas().weights(alphas, None, None)["reduce"].sum(-1), np.ones(14)
    )


# Temperatures


def test_temperatures_are_those_of_the_published_schedules(reference):
    with np.load(reference / "searchers" / "gdas_derivation.npz") as stored:
        for tau_min in ("0.1", "1"):
            searcher = Gdas(tau_min=float(tau_min))
            found = [
                float(searcher.temperature(Progress(jnp.array(epoch), 250)))
                for epoch in range(250)
            ]
            assert np.allclose(found, stored[f"schedule.tau_min{tau_min}"], rtol=1e-5)
    with np.load(reference / "searchers" / "snas_derivation.npz") as stored:
        # Its code counts to 150 whatever the number of epochs.
        for epochs in (150, 50):
            searcher = Snas(annealing_epochs=150)
            found = [
                float(searcher.temperature(Progress(jnp.array(epoch), epochs)))
                for epoch in range(epochs)
            ]
            assert np.allclose(found, stored[f"schedule.epochs{epochs}"], rtol=1e-5)


@pytest.mark.parametrize(("searcher", "last"), [(Gdas(), 0.1), (Snas(), 0.03)])
def test_a_temperature_ends_where_it_is_told_and_stays_there(searcher, last):
    at = lambda epoch, epochs: float(
        searcher.temperature(Progress(jnp.array(epoch), epochs))
    )
    assert at(7, 8) == at(20, 8) == pytest.approx(last, rel=1e-5)
    assert 0 < at(0, 1) <= 10


@pytest.mark.parametrize(
    "searcher", [Gdas(tau_min=1e-6), Snas(temperature_end=1e-6)], ids=["gdas", "snas"]
)
def test_the_least_temperature_is_reached_and_is_not_0(searcher):
    """The difference of two numbers near the first would be a multiple of 1e-6."""
    last = searcher.temperature(Progress(jnp.array(14), 15))
    assert float(last) == np.float32(1e-6)


# The resource loss of SNAS


@pytest.mark.parametrize("temperature", ["1", "0.1"])
def test_the_resource_loss_is_that_of_snas_for_the_same_costs(samples, temperature):
    """Ours divides the sums of both kinds of cell by the number of cells.

    SNAS's code divides them by 6 and 2, whatever their number.
    """
    nested = lambda part: tuple(
        tuple(map(tuple, cell)) for cell in samples[f"snas.cost.{part}"].tolist()
    )
    kinds = tuple(
        "reduce" if reduction else "normal"
        for reduction in samples["snas.cost.reduction"]
    )
    counted = Costs(kinds, nested("size"), nested("flops"), nested("mac"))
    weights = {
        name: samples[f"snas.weights.temp{temperature}.{name}"][0].astype(np.float32)
        for name in CELLS
    }
    normal, reduce = samples[f"snas.temp{temperature}.penalty"][37:39]
    assert float(resource_loss(weights, counted)) == pytest.approx(
        normal / 3 + reduce / 2, rel=1e-5
    )


def test_costs_are_our_counts_of_each_edge():
    types = ("none", "max_pool_3x3", "bin_conv_3x3")
    supernet = Supernet(num_cells=3, channels=4, num_classes=10, layer_types=types)
    counted = costs(supernet, (8, 8, 1))
    assert counted.kinds == ("normal", "reduce", "reduce")
    # Edges of the first cell, 8x8 with 4 channels, and of the last one, 4x4 to 2x2 with
    # 16 from an input, 2x2 from a node.
    size, flops, access = (
        np.array(part) for part in (counted.size, counted.flops, counted.access)
    )
    assert np.array_equal(size[:, 0], [[0, 0, 9 * c * c / 32] for c in (4, 8, 16)])
    assert (
        np.array_equal(flops[0, 13], [0, 0, 9 * 16 * 64 / 64])
        and flops[2, 0, 2] == flops[2, 13, 2] == 9 * 256 * 4 / 64
    )
    assert np.array_equal(access[0, 0], [0, 2 * 256, 2 * 256 + 4.5]) and access[
        2, 0, 1
    ] == 16 * (16 + 4)

    # ImageNet's stem leaves an eighth of the size to the cells.
    assert costs(supernet.clone(form="imagenet"), (64, 64, 3)) == counted

    # Images that are too small are refused as the supernet refuses them.
    with pytest.raises(UserError, match="images of 1 pixels at the first cell cannot"):
        costs(supernet.clone(form="imagenet"), (8, 8, 1))

    searcher = Snas(resource_weight=0.5, layer_types=types)
    weights = {name: np.full((14, 3), 1 / 3, np.float32) for name in CELLS}
    with pytest.raises(
        UserError, match=r"searcher\.for_supernet\(supernet, image_shape\)"
    ):
        searcher.resources(weights)
    ready = searcher.for_supernet(supernet, (8, 8, 1))
    assert float(ready.resources(weights)) == pytest.approx(
        0.5 * float(resource_loss(weights, counted))
    )
    assert hash(ready) and Snas().for_supernet(supernet, (8, 8, 1)) == Snas()
    cheap = {name: weights[name] * np.float32([2, 0.5, 0.5]) for name in CELLS}
    assert ready.resources(cheap) < ready.resources(weights)


# Clipping


def test_gdas_clips_weights_and_alpha_together_before_the_weights_move():
    gradients = {
        "weights": {"kernel": jnp.array([3.0, 4.0])},
        "alphas": {"normal": jnp.array([12.0])},
    }
    clipped = Gdas(clip_norm=6.5).clip(gradients)
    assert np.allclose(clipped["weights"]["kernel"], [1.5, 2]) and np.allclose(
        clipped["alphas"]["normal"], 6
    )
    untouched = ({"alphas": gradients["alphas"]}, {**gradients})
    assert (
        Gdas(clip_norm=1.0).clip(untouched[0]) == untouched[0]
        and Gdas(clip_norm=None).clip(gradients) is gradients
        and Gdas(clip_norm=math.inf).clip(gradients) is gradients
    )
    assert optax.tree_utils.tree_norm(
        Gdas(clip_norm=100.0).clip(gradients)
    ) == pytest.approx(13)


# Random search


def test_random_cells_take_two_inputs_a_node_and_all_types_alike(samples):
    draw = jax.jit(jax.vmap(lambda key: random_lib.sample(key, 8)))
    drawn = draw(jax.random.split(jax.random.key(0), 2000))
    starts = [EDGES.index((0, node)) for node in range(2, 6)]
    for index, name in enumerate(CELLS):
        weights = np.asarray(drawn[name])
        assert set(np.unique(weights)) == {0, 1} and np.all(weights.sum(-1) <= 1)
        assert np.all(np.add.reduceat(weights.sum(-1), starts, axis=1) == 2)
        # As often as in their code, whose counts spread as much.
        counts, theirs = weights.sum(0), samples["random.counts_of_2000"][index]
        spread = np.sqrt(2 * theirs.mean(axis=1, keepdims=True))
        assert np.abs((counts - theirs) / spread).max() < 4.5
    assert not np.array_equal(drawn["normal"], drawn["reduce"])


def test_the_weights_of_a_cell_stand_for_its_pairs(samples):
    types = tuple(str(name) for name in samples["random.primitives"])
    for row, (normal, reduce) in enumerate(samples["random.sampled"]):
        cell = random_lib.genotype_of(
            {name: samples[f"random.weights_{name}"][row] for name in CELLS}, types
        )
        expected = [
            sorted(named(part[2 * node : 2 * node + 2], types))
            for part in (normal, reduce)
            for node in range(4)
        ]
        assert [
            sorted(node) for part in (cell.normal, cell.reduce) for node in part
        ] == expected


@dataclasses.dataclass(frozen=True)
class Recorded(Random):
    """Random search among the candidates of a published run."""

    cells: tuple = dataclasses.field(
        default=(), kw_only=True, metadata={"setting": False}, compare=False
    )

    def _candidate(self, key, number):
        return self.cells[number]


def weights_of(cell: np.ndarray, num_types: int) -> np.ndarray:
    weights = np.zeros((len(EDGES), num_types), np.float32)
    for position, (operation, source) in enumerate(cell):
        weights[EDGES.index((int(source), 2 + position // 2)), operation] = 1
    return weights


def test_the_best_candidate_is_that_of_the_published_search(samples):
    """Sixty candidates on a few batches, the ten best on all.

    A score there is one minus the accuracy in %.
    """
    types = tuple(str(name) for name in samples["random.primitives"])
    cells = [
        dict(zip(CELLS, (weights_of(part, len(types)) for part in cell), strict=True))
        for cell in samples["random.finish.candidates"]
    ]
    batches, first = [], iter(1 - samples["random.finish.scores"])
    again = iter(1 - samples["random.finish.ten_scores"])
    finalists = []

    def score(weights, numbers):
        if numbers is None:
            finalists.append(weights)
            return float(next(again))
        batches.append(list(numbers))
        return float(next(first))

    searcher = Recorded(
        candidates=60,
        score_batches=10,
        finalists=10,
        layer_types=types,
        cells=tuple(cells),
    )
    finished = searcher.finish(jax.random.key(0), score)
    assert batches[:2] == [list(range(10)), list(range(10, 20))] and len(batches) == 60
    ten = samples["random.finish.ten"]
    for found, expected in zip(finalists, ten, strict=True):
        assert all(
            np.array_equal(found[n], weights_of(c, len(types)))
            for n, c in zip(CELLS, expected, strict=True)
        )
    best = {
        name: weights_of(cell, len(types))
        for name, cell in zip(CELLS, samples["random.finish.best"], strict=True)
    }
    assert finished.genotype == random_lib.genotype_of(best, types)
    assert finished.top1 == pytest.approx(
        1 - float(samples["random.finish.best_score"])
    )
    assert (
        len(finished.candidates) == 60
        and sum("top1_of_all" in listed for listed in finished.candidates) == 10
    )
    assert Genotype(finished.candidates[0]["normal"], finished.candidates[0]["reduce"])


def test_a_random_search_draws_a_cell_a_step_and_derives_none():
    searcher = Random(layer_types=("none", "bin_conv_3x3"))
    assert searcher.init(jax.random.key(0)) == {} and searcher.record({}) == {}
    one, other = (searcher.weights({}, jax.random.key(seed), None) for seed in (0, 1))
    assert one["normal"].shape == (14, 2) and not np.array_equal(
        one["normal"], other["normal"]
    )
    assert searcher.weights(one, None, None)["normal"] is one["normal"], (
        "a candidate is scored as it is"
    )
    with pytest.raises(UserError, match="no alphas to derive a genotype from"):
        searcher.derive({})
