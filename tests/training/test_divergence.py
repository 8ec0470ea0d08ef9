"""Which gradient went first."""

import jax.numpy as jnp
import pytest

from bnas_jax.training.divergence import Guard, describe, watch

NAN, INF = float("nan"), float("inf")


def gradients(stem=1.0, cell2=1.0, cell10=1.0, classifier=1.0) -> dict:
    of = {"stem": stem, "cell2": cell2, "cell10": cell10, "classifier": classifier}
    return {
        name: {"conv": {"latent": jnp.array([[0.5, -value]])}}
        for name, value in of.items()
    }


def after(*steps: dict) -> str:
    guard = Guard.create(gradients())
    for step, grads in enumerate(steps):
        guard = watch(guard, grads, step)
    return describe(guard, gradients())


@pytest.mark.parametrize(
    ("steps", "text"),
    [
        (
            [gradients(), gradients(cell2=INF)],
            "being finite at step 1, probably that of cell2/conv/latent first",
        ),
        (
            [gradients(cell2=INF, stem=NAN), gradients(classifier=NAN)],
            "being finite at step 0, probably that of cell2/conv/latent first",
        ),
        (
            [gradients(cell10=INF, cell2=NAN, stem=NAN)],
            "being finite at step 0, probably that of cell10/conv/latent first",
        ),
        (
            [gradients(cell2=50), gradients(NAN, NAN, NAN, NAN)],
            "being finite at step 1, probably that of cell2/conv/latent first",
        ),
        (
            [gradients(), gradients(stem=-70)],
            "the largest gradient is that of stem/conv/latent, 70",
        ),
    ],
)
def test_the_gradient_that_went_first_is_named(steps, text):
    assert text in after(*steps)


def test_parts_of_other_networks_come_in_the_order_of_their_numbers():
    names = ("classifier", "stage0_block1", "stage1_block0", "stage10_block0", "stem")
    parts = {name: {"bias": jnp.zeros(2)} for name in names}
    broken = {name: {"bias": jnp.array([NAN, 0])} for name in names[1:4]}
    guard = watch(Guard.create(parts), parts | broken, 7)
    assert "at step 7, probably that of stage10_block0/bias first" in describe(
        guard, parts
    )


def test_nothing_is_said_where_nothing_is_known():
    assert describe(None, gradients()) == ""
