"""Steps of searches against those of the published codes, on their supernets, with the
noise that they drew.

Operation by operation but for the second order, as compiling a supernet of DARTS's
layer types takes longer than the step. Numbers were computed in double precision; ours
in float32 lie within 1e-4 of the largest entry.
"""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from bnas_jax.interop import load_published
from bnas_jax.search import Darts, Gdas, Random, Snas, gumbel
from bnas_jax.search.costs import Costs
from bnas_jax.training.alpha_optimizers import alphas_adam, alphas_sgd
from bnas_jax.training.optimizers import latent_sgd
from bnas_jax.training.search_step import SearchStep
from bnas_jax.training.state import search_state_of

pytestmark = pytest.mark.long

CELLS = ("normal", "reduce")


@functools.cache
def arrays_of(folder, name: str) -> dict[str, np.ndarray]:
    with np.load(folder / "searchers" / f"{name}.npz", allow_pickle=False) as stored:
        return dict(stored)


def batch(arrays, name: str) -> dict:
    """{"image", "label"} of `x_NAME` and `y_NAME`, channels last."""
    suffix = f"_{name}" if name else ""
    images = np.ascontiguousarray(arrays[f"x{suffix}"].transpose(0, 2, 3, 1))
    return {
        "image": jnp.asarray(images),
        "label": jnp.asarray(arrays[f"y{suffix}"], jnp.int32),
    }


def of_cells(arrays, name: str) -> dict[str, jax.Array]:
    return {cell: jnp.asarray(arrays[name.format(cell)], jnp.float32) for cell in CELLS}


def begun(model, variables, alphas, step: SearchStep):
    return search_state_of(variables, alphas, step.weights, step.alphas, 1, seed=0)


def with_momentum(state, momentum):
    """The state with these momentum buffers, in the form of the parameters."""
    opt_state = optax.tree_utils.tree_set(state.opt_state, trace=momentum)
    return state.replace(opt_state=opt_state)


def apart(found, expected) -> float:
    """The largest difference, relative to the largest entry of all."""
    found, expected = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
        for tree in (found, expected)
    )
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.fixture(scope="module", params=["difference", "exact"])
def second_order(request, reference):
    """("difference" or "exact", the supernet, its variables, (state, decay, batches) ->
    alpha's stage, compiled once).
    """
    arrays = arrays_of(reference, "darts_second_order_c4_l3")
    model, variables = load_published("darts_second_order_c4_l3", arrays)

    # As one program: the difference in the case `decay` lies so near a kink that the
    # rounding of single operations crosses it.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def stage(state, decay, batches):
        return second_order_step(arrays, model, request.param, decay).stage(
            0, state, batches
        )

    return request.param, model, variables, stage


def second_order_step(arrays, model, unrolled: str, decay) -> SearchStep:
    eta, momentum = float(arrays["eta"]), float(arrays["momentum_factor"])
    weights = latent_sgd(
        eta, momentum=momentum, weight_decay=decay, scheme=model.scheme, clip_norm=5.0
    )
    return SearchStep(
        model, Darts(unrolled=unrolled), weights=weights, alphas=optax.sgd(1.0)
    )


@pytest.mark.parametrize("case", ["absent", "present", "decay"])
def test_the_second_order_gradient_of_alpha_is_that_of_darts(
    reference, second_order, case
):
    unrolled, model, variables, stage = second_order
    arrays = arrays_of(reference, "darts_second_order_c4_l3")
    decay = float(arrays[f"{case}.weight_decay"])
    step = second_order_step(arrays, model, unrolled, decay)
    state = begun(model, variables, of_cells(arrays, "alphas_{}"), step)
    if case == "present":
        buffers = {
            f"state.{name.removeprefix('momentum.')}": value
            for name, value in arrays.items()
            if name[:9] == "momentum."
        }
        _, momentum = load_published("darts_second_order_c4_l3", {**arrays, **buffers})
        state = with_momentum(state, momentum["params"])

    batches = {name: batch(arrays, name) for name in ("train", "valid")}
    after = stage(state, decay, batches)
    found = jax.tree.map(
        lambda before, after: before - after, state.alphas, after.alphas
    )
    product = {"difference": "", "exact": "exact_"}[unrolled]
    assert apart(found, of_cells(arrays, f"{case}.{product}grad_alphas_{{}}")) < 1e-4


# Whole steps


def expected_params(name: str, arrays, prefix: str):
    """(parameters with the published ones after some steps, which ones those are)."""
    after = {
        f"state.{key.removeprefix(prefix)}": value
        for key, value in arrays.items()
        if key.startswith(prefix)
    }
    known = {key: value for key, value in after.items() if key in arrays}
    _, variables = load_published(name, {**arrays, **known})
    marks = {key: np.full_like(arrays[key], np.nan) for key in known}
    _, marked = load_published(name, {**arrays, **marks})
    return variables["params"], jax.tree.map(
        lambda leaf: np.isnan(np.asarray(leaf)), marked["params"]
    )


def moved_apart(state, start, expected, given) -> float:
    """How far the given weights lie from the expected ones, relative to the largest
    step that one of them has made.
    """
    found, start, expected, given = (
        np.asarray(ravel_pytree(tree)[0])
        for tree in (state.params, start, expected, given)
    )
    given = given.astype(bool)
    assert given.any()
    return float(
        np.abs(found - expected)[given].max() / np.abs(expected - start)[given].max()
    )


def losses_of(states) -> list[float]:
    """Of each step, from the sums of the states between them."""
    sums = [(float(state.sums.loss), float(state.sums.examples)) for state in states]
    return [
        (loss - before) / (count - counted)
        for (before, counted), (loss, count) in itertools.pairwise(sums)
    ]


def test_three_steps_of_darts_are_those_of_its_code(reference):
    name = "darts_supernet_c4_l5"
    arrays = arrays_of(reference, name)
    model, variables = load_published(name, arrays)
    weights = latent_sgd(
        0.025,
        weight_decay=3e-4,
        clip_norm=float(arrays["search.grad_clip"]),
        scheme=model.scheme,
    )
    step = SearchStep(model, Darts(), weights=weights, alphas=alphas_adam(3e-4))
    states = [begun(model, variables, of_cells(arrays, "alphas_{}"), step)]
    batches = {part: batch(arrays, part) for part in ("train", "valid")}
    for _ in range(3):
        states.append(step(states[-1], batches))
    assert losses_of(states) == pytest.approx(
        arrays["search.losses"].tolist(), rel=1e-4
    )
    for after, state in (("search.after1.", states[1]), ("search.after3.", states[3])):
        assert (
            apart(
                moved(state, states[0]),
                moved_to(arrays, f"{after}alphas_{{}}", states[0]),
            )
            < 2e-2
        )
        assert (
            moved_apart(
                state, variables["params"], *expected_params(name, arrays, after)
            )
            < 1e-3
        )


def moved(state, start):
    return jax.tree.map(lambda a, b: a - b, state.alphas, start.alphas)


def moved_to(arrays, name: str, start):
    """The way of alpha in double precision, as differences of what lies near each
    other.
    """
    return {
        cell: arrays[name.format(cell)] - np.asarray(start.alphas[cell], np.float64)
        for cell in CELLS
    }


@dataclasses.dataclass(frozen=True)
class FedSnas(Snas):
    """SNAS with recorded noise, at temperature 1."""

    noise: Any = dataclasses.field(default=None, kw_only=True)

    def weights(self, alphas, key, progress):
        return {
            name: gumbel.soft(alpha, self.noise[name], 1.0)
            for name, alpha in alphas.items()
        }


# What SNAS's code moves alpha by on several GPUs, and on one.
SNAS_RULES = [
    ("distributed", alphas_adam(3e-4, clip_norm=10.0)),
    ("single", alphas_sgd(3e-4, clip_norm=10.0)),
]


@pytest.mark.parametrize(("case", "rule"), SNAS_RULES, ids=["adam", "sgd"])
def test_three_steps_of_snas_are_those_of_its_code(reference, case, rule):
    """Its resource loss, by its own costs, divides by 6 normal cells where there are 3:
    three others cost nothing.
    """
    name = "snas_supernet_c4_l5"
    arrays = arrays_of(reference, name)
    model, variables = load_published(name, arrays)
    weights = latent_sgd(0.025, weight_decay=3e-4, clip_norm=5.0, scheme=model.scheme)
    kinds = (
        tuple(
            "reduce" if reduction else "normal"
            for reduction in arrays["cost.reduction"]
        )
        + ("normal",) * 3
    )
    parts = (
        np.concatenate([arrays[f"cost.{part}"], np.zeros((3, 14, 8))]).tolist()
        for part in ("size", "flops", "mac")
    )
    searcher = FedSnas(
        drop_path=0.0,
        resource_weight=float(arrays["settings.resource_lambda"]),
        costs=Costs(kinds, *parts),
    )
    step = SearchStep(model, searcher, weights=weights, alphas=rule)
    states = [begun(model, variables, of_cells(arrays, "{}_log_alpha"), step)]
    for number in range(3):
        noise = {
            cell: (-np.log(-np.log(arrays[f"search.u_{cell}"][number]))).astype(
                np.float32
            )
            for cell in CELLS
        }
        fed = dataclasses.replace(
            step, searcher=dataclasses.replace(step.searcher, noise=noise)
        )
        states.append(fed(states[-1], {"train": batch(arrays, "")}))
    expected = arrays[f"{case}.losses"][:, 0].tolist()
    assert losses_of(states) == pytest.approx(expected, rel=1e-4)
    for after, state in (
        (f"{case}.after1.", states[1]),
        (f"{case}.after3.", states[3]),
    ):
        way = moved_to(arrays, f"{after}{{}}_log_alpha", states[0])
        assert apart(moved(state, states[0]), way) < 2e-2
        assert (
            moved_apart(
                state, variables["params"], *expected_params(name, arrays, after)
            )
            < 1e-3
        )


@dataclasses.dataclass(frozen=True)
class FedGdas(Gdas):
    """GDAS with recorded noise, at one temperature."""

    noise: Any = dataclasses.field(default=None, kw_only=True)
    tau: float = dataclasses.field(default=1.0, kw_only=True)

    def _draw(self, alphas, key, progress):
        return {
            name: gumbel.hard(alpha, self.noise[name], self.tau)
            for name, alpha in alphas.items()
        }


@pytest.mark.parametrize("fixed", [False, True])
def test_three_steps_of_gdas_are_those_of_its_code(reference, fixed):
    """Weights decay there once a pass of alpha has chosen them, too, which moves them
    by 1e-5 of themselves.
    """
    name = "gdas_frc_supernet_c4_l6" if fixed else "gdas_supernet_c4_l6"
    names = (
        {"normal": "arch_parameters"}
        if fixed
        else {cell: f"arch_{cell}_parameters" for cell in CELLS}
    )
    arrays = arrays_of(reference, name)
    model, variables = load_published(name, arrays)
    model = model.clone(
        edges="shared"
    )  # the same function; loops over edges are compiled anew in each call
    weights = latent_sgd(
        0.025, nesterov=True, weight_decay=5e-4, decayed="moved", scheme=model.scheme
    )
    step = SearchStep(
        model,
        FedGdas(tau=float(arrays["search.tau"])),
        weights=weights,
        alphas=alphas_adam(3e-4),
    )
    alphas = {
        cell: jnp.asarray(arrays[f"state.{published}"])
        for cell, published in names.items()
    }
    states = [begun(model, variables, alphas, step)]
    data = {"train": batch(arrays, "base"), "valid": batch(arrays, "arch")}
    for number in range(3):
        state = states[-1]
        for stage in (0, 1):
            noise = {
                cell: arrays[f"search.gumbel_{cell}"][2 * number + stage]
                for cell in names
            }
            fed = dataclasses.replace(
                step, searcher=dataclasses.replace(step.searcher, noise=noise)
            )
            state = fed.stage(stage, state, data)
        states.append(state)
    assert losses_of(states) == pytest.approx(
        arrays["search.losses"][:, 0].tolist(), rel=1e-4
    )
    for after, state in (("search.after1.", states[1]), ("search.after3.", states[3])):
        expected = {
            cell: arrays[after + published] - np.asarray(alphas[cell], np.float64)
            for cell, published in names.items()
        }
        assert apart(moved(state, states[0]), expected) < 2e-2
        assert (
            moved_apart(
                state, variables["params"], *expected_params(name, arrays, after)
            )
            < 1e-2
        )


@dataclasses.dataclass(frozen=True)
class FedRandom(Random):
    """Random search among given cells."""

    cell: Any = dataclasses.field(default=None, kw_only=True)

    def weights(self, alphas, key, progress):
        return self.cell


def test_three_steps_of_random_search_are_those_of_its_code(reference):
    name = "random_supernet_c4_l3"
    arrays = arrays_of(reference, name)
    model, variables = load_published(name, arrays)
    weights = latent_sgd(0.025, weight_decay=3e-4, clip_norm=5.0, scheme=model.scheme)
    step = SearchStep(model, FedRandom(), weights=weights, alphas=optax.sgd(1.0))
    states = [begun(model, variables, {}, step)]
    for number in range(3):
        cell = {
            kind: jnp.asarray(arrays[f"weights_{kind}"][number], jnp.float32)
            for kind in CELLS
        }
        fed = dataclasses.replace(
            step, searcher=dataclasses.replace(step.searcher, cell=cell)
        )
        states.append(fed(states[-1], {"train": batch(arrays, "train")}))
    assert losses_of(states) == pytest.approx(
        arrays["search.losses"].tolist(), rel=1e-4
    )
    assert (
        moved_apart(
            states[3], variables["params"], *expected_params(name, arrays, "after3.")
        )
        < 1e-3
    )
