"""Networks of cells against the numbers of the codes of DARTS, SNAS and GDAS."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from arrays import nhwc
from published import loaded, with_prefix

from bnas_jax.core.arithmetic import Arithmetic
from bnas_jax.core.errors import UserError
from bnas_jax.core.fixed_reduction import FixedReduction
from bnas_jax.core.forms import FORMS
from bnas_jax.core.losses import cross_entropy
from bnas_jax.core.schemes import Float
from bnas_jax.core.stack import Place
from bnas_jax.interop.published import cells, load_published
from bnas_jax.interop.published.torch_arrays import fill, from_torch

pytestmark = pytest.mark.usefixtures("quick_compilation")

AUXILIARY = pytest.param("darts_net_c4_l5_DARTS_V1_auxiliary", marks=pytest.mark.long)
NETWORKS = (
    "darts_net_c4_l5_DARTS_V2",
    AUXILIARY,
    "snas_net_c4_l5_SNAS_mild_edge_all",
    "gdas_f1_net_c4_l5",
)
# Their gradients take twice as long as their logits.
WITH_GRADIENTS = (
    "darts_net_c4_l5_DARTS_V2",
    AUXILIARY,
    pytest.param("snas_net_c4_l5_SNAS_mild_edge_all", marks=pytest.mark.long),
    pytest.param("gdas_f1_net_c4_l5", marks=pytest.mark.long),
)


def difference(ours, theirs, *, scale=None):
    """The largest difference, relative to the largest entry of theirs or to `scale`."""
    return float(
        np.abs(ours - theirs).max() / (np.abs(theirs).max() if scale is None else scale)
    )


@pytest.fixture(params=NETWORKS)
def published(request, reference):
    """(arrays, model, variables) of a published network."""
    return loaded(reference, request.param)


def test_logits_in_evaluation(published):
    arrays, model, variables = published
    logits = jax.jit(lambda x: model.apply(variables, x, train=False))(
        nhwc(arrays["x"])
    )
    assert (
        difference(logits, arrays["eval.logits"], scale=np.ptp(arrays["eval.logits"]))
        < 1e-4
    )


def training(model, variables, x, labels):
    """(loss, (logits, what moved)) and the gradients at the parameters, with DARTS's
    auxiliary loss where there is one.
    """

    def loss(params):
        collections = {**variables, "params": params}
        logits, moved = model.apply(
            collections, x, train=True, mutable=["batch_stats", "auxiliary"]
        )
        total = cross_entropy(logits, labels).mean()
        for other in moved.get("auxiliary", {}).get("logits", ()):
            total = total + 0.4 * cross_entropy(other, labels).mean()
        return total, (logits, moved)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])


@pytest.mark.parametrize("published", WITH_GRADIENTS, indirect=True)
def test_training_gives_their_loss_gradients_and_statistics(published):
    arrays, model, variables = published
    (loss, (logits, moved)), gradients = training(
        model, variables, nhwc(arrays["x"]), jnp.asarray(arrays["y"])
    )
    assert loss == pytest.approx(float(arrays["train.loss"]), rel=1e-5)
    assert (
        difference(logits, arrays["train.logits"], scale=np.ptp(arrays["train.logits"]))
        < 1e-4
    )
    if model.auxiliary:
        assert (
            difference(
                moved["auxiliary"]["logits"][0], arrays["train.logits_auxiliary"]
            )
            < 1e-4
        )

    theirs = with_prefix(arrays, "train.grad")
    largest = max(np.abs(gradient).max() for gradient in theirs.values())
    compared = set()
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        keys = ("params", *(key.key for key in path))
        name = cells.in_network(with_prefix(arrays, "state"), keys)
        if name in theirs:
            expected = from_torch(theirs[name])
            assert (
                difference(
                    gradient,
                    expected,
                    scale=max(np.abs(expected).max(), 0.01 * largest),
                )
                < 1e-4
            ), name
            compared.add(name)
    assert compared == set(theirs)

    theirs = with_prefix(arrays, "train.after")
    for path, value in jax.tree_util.tree_leaves_with_path(moved["batch_stats"]):
        keys = ("batch_stats", *(key.key for key in path))
        name = cells.in_network(with_prefix(arrays, "state"), keys)
        if name in theirs:
            assert difference(value, theirs.pop(name)) < 1e-4, name
    assert not theirs


@pytest.mark.parametrize(
    ("search", "halved"),
    [
        pytest.param(False, False, marks=pytest.mark.long, id="affine-normal"),
        pytest.param(False, True, id="affine-reduction"),
        pytest.param(True, False, id="search-normal"),
        pytest.param(True, True, id="search-reduction"),
    ],
)
def test_the_fixed_reduction_cell_of_gdas(reference, search, halved):
    arrays = dict(np.load(reference / "searchers" / "gdas_reduction_cell.npz"))
    kind = "search" if search else "affine"
    prefix = f"{kind}.after_{'reduction' if halved else 'normal'}"
    found = with_prefix(arrays, prefix)
    cell = FixedReduction(
        place=Place(index=1, channels=8, reduction=True, halved=halved),
        form=FORMS["gdas"],
        scheme=Float(order="relu_first", bias=True),
        arithmetic=Arithmetic(),
        search=search,
        skip=False,
    )
    inputs = nhwc(found["s0"]), nhwc(found["s1"])
    names = {f"c.{name}": array for name, array in with_prefix(found, "state").items()}
    counterpart = lambda path: cells.beside_edges(
        names, "c", list(path[1:-1]), cells.BATCH_NORM.get(path[-1], "weight")
    )
    shapes = jax.eval_shape(
        lambda *inputs: cell.init(jax.random.key(0), *inputs, train=False), *inputs
    )
    variables = fill(shapes, names, counterpart)
    assert (
        difference(cell.apply(variables, *inputs, train=False), nhwc(found["y_eval"]))
        < 1e-5
    )

    def run(params, before, previous):
        collections = {**variables, "params": params}
        return cell.apply(
            collections, before, previous, train=True, mutable=["batch_stats"]
        )

    y, vjp, moved = jax.vjp(run, variables["params"], *inputs, has_aux=True)
    assert difference(y, nhwc(found["y_train"])) < 1e-5
    gradients, *to_inputs = vjp(nhwc(found["grad_y"]))
    for ours, theirs in zip(to_inputs, ("grad_s0", "grad_s1"), strict=True):
        assert difference(ours, nhwc(found[theirs])) < 1e-4
    theirs = {f"c.{name}": array for name, array in with_prefix(found, "grad").items()}
    largest = max(np.abs(gradient).max() for gradient in theirs.values())
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        name = counterpart(("params", *(key.key for key in path)))
        expected = from_torch(theirs[name]) if name in theirs else np.zeros(())
        assert (
            difference(
                gradient, expected, scale=max(np.abs(expected).max(), 0.01 * largest)
            )
            < 1e-4
        ), name
    for path, value in jax.tree_util.tree_leaves_with_path(moved["batch_stats"]):
        name = counterpart(("batch_stats", *(key.key for key in path))).removeprefix(
            "c."
        )
        assert difference(value, found[f"after.{name}"]) < 1e-5


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("darts_net_c4_l5_NONE", {}, "names no cell that is known here: darts_v1"),
        ("darts_net_c4_l5_DARTS_V1", {}, "the published weights lack cells."),
        (
            "darts_net_c4_l5_DARTS_V2",
            {"state.stem.0.weight": None},
            "the published weights lack stem.0.weight",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(reference, name, change, message):
    arrays = {**loaded(reference, NETWORKS[0])[0], **change}
    arrays = {key: value for key, value in arrays.items() if value is not None}
    with pytest.raises(UserError, match=message) as caught:
        load_published(name, arrays)
    assert "\n" not in str(caught.value)
