"""The architecture parameters: their start, their relaxation, and Eq. (5)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bnas_jax.core import alphas
from bnas_jax.core.errors import UserError

NORMAL = np.random.default_rng(0).normal(size=(14, 7)).astype(np.float32)
REDUCE = np.random.default_rng(1).normal(size=(14, 7)).astype(np.float32)
BOTH = {"normal": NORMAL, "reduce": REDUCE}


def softmax(values):
    exponentials = np.exp(values)
    return exponentials / exponentials.sum(-1, keepdims=True)


@pytest.mark.parametrize("num_types", [5, 7])
def test_alphas_begin_small_and_different(num_types):
    start = alphas.init(jax.random.key(0), num_types)
    assert {name: value.shape for name, value in start.items()} == {
        "normal": (14, num_types),
        "reduce": (14, num_types),
    }
    values = np.concatenate(list(start.values()))
    assert values.std() == pytest.approx(1e-3, rel=0.2)
    assert abs(values.mean()) < 3e-4
    assert len(np.unique(values)) == values.size
    assert np.array_equal(
        start["normal"], alphas.init(jax.random.key(0), num_types)["normal"]
    )
    assert (
        alphas.init(jax.random.key(0), num_types, jnp.bfloat16)["reduce"].dtype
        == jnp.bfloat16
    )


def test_relaxation_is_a_softmax_per_edge():
    relaxed = alphas.relax(BOTH)
    assert set(relaxed) == {"normal", "reduce"}
    for name, value in BOTH.items():
        assert np.allclose(relaxed[name], softmax(value), rtol=1e-5)


@pytest.mark.parametrize("num_types", [5, 7])
def test_entropy_is_largest_where_all_types_are_equal(num_types):
    uniform = {name: jnp.full((14, num_types), 3.0) for name in BOTH}
    assert alphas.entropy(uniform) == pytest.approx(np.log(num_types), rel=1e-6)
    certain = {name: 1000 * jnp.eye(14, num_types) for name in BOTH}
    certain = {name: value.at[:, 0].add(500) for name, value in certain.items()}
    assert alphas.entropy(certain) == pytest.approx(0, abs=1e-6)


def test_entropy_is_the_mean_over_the_edges_of_both_cells():
    p = softmax(np.concatenate([NORMAL, REDUCE]).astype(np.float64))
    assert alphas.entropy(BOTH) == pytest.approx(-(p * np.log(p)).sum() / 28, rel=1e-6)


def test_the_released_entropy_has_the_last_edge_of_the_reduction_cell_fourteen_times():
    p = softmax(
        np.concatenate([NORMAL, np.tile(REDUCE[13], (14, 1))]).astype(np.float64)
    )
    assert alphas.entropy(BOTH, edges="released") == pytest.approx(
        -(p * np.log(p)).sum() / 28, rel=1e-6
    )
    gradient = jax.grad(
        lambda a: alphas.diversity(a, 0, weight=1.0, tau=7.7, edges="released")
    )(BOTH)
    plain = jax.grad(lambda a: alphas.diversity(a, 0, weight=1.0, tau=7.7))(BOTH)
    assert np.allclose(gradient["normal"], plain["normal"], atol=1e-7)
    assert not np.any(gradient["reduce"][:13])
    assert np.allclose(gradient["reduce"][13], 14 * plain["reduce"][13], atol=1e-7)


def test_the_gradient_of_the_entropy_has_its_closed_form():
    """dH/da_j = -p_j (log p_j + H_edge) / 28."""
    gradient = jax.grad(alphas.entropy)(BOTH)
    for name, value in BOTH.items():
        p = softmax(value.astype(np.float64))
        of_edge = -(p * np.log(p)).sum(-1, keepdims=True)
        assert np.allclose(gradient[name], -p * (np.log(p) + of_edge) / 28, atol=1e-8)


def test_the_diversity_term_anneals():
    entropy = float(alphas.entropy(BOTH))
    term = lambda epoch, **options: float(alphas.diversity(BOTH, epoch, **options))
    assert term(0, weight=1.0, tau=7.7) == pytest.approx(-entropy)
    assert term(7.7, weight=1.0, tau=7.7) == pytest.approx(-entropy / np.e)
    assert term(20, weight=0.5, tau=7.7) == pytest.approx(
        -0.5 * entropy * np.exp(-20 / 7.7)
    )
    assert term(3, weight=0.0, tau=7.7) == 0


def test_the_diversity_term_is_the_same_for_a_traced_epoch():
    traced = jax.jit(lambda epoch: alphas.diversity(BOTH, epoch, weight=1.0, tau=7.7))
    assert float(traced(jnp.int32(11))) == pytest.approx(
        float(alphas.diversity(BOTH, 11, weight=1.0, tau=7.7)), rel=1e-6
    )


def test_the_term_of_an_integer_epoch_is_taken_under_strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        strict = alphas.diversity(BOTH, jnp.int32(11), weight=1.0, tau=7.7)
    assert strict == alphas.diversity(BOTH, 11, weight=1.0, tau=7.7)


def test_another_word_for_the_edges_is_refused():
    with pytest.raises(
        UserError, match="edges must be one of all, released, got 'every'"
    ):
        alphas.diversity(BOTH, 0, weight=1.0, tau=7.7, edges="every")


def test_a_descent_step_on_the_term_raises_the_entropy():
    gradient = jax.grad(lambda a: alphas.diversity(a, 0, weight=1.0, tau=7.7))(BOTH)
    stepped = {name: value - 0.1 * gradient[name] for name, value in BOTH.items()}
    assert alphas.entropy(stepped) > alphas.entropy(BOTH)
