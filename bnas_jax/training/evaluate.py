"""Evaluates a network on a data set, every example once.

`Evaluator` does this for given variables, `evaluate` for a checkpoint of a work
directory.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax

from bnas_jax.core.errors import UserError
from bnas_jax.data import facts as facts_lib
from bnas_jax.data.arrays import Arrays
from bnas_jax.data.augment import Augmentation
from bnas_jax.data.readers.encoded import Encoded
from bnas_jax.data.sources import eval_source
from bnas_jax.runtime import devices, jax_setup
from bnas_jax.runtime.compiling import Call
from bnas_jax.runtime.devices import Devices
from bnas_jax.search import Searcher
from bnas_jax.settings import RunSettings, Settings, TrainSettings
from bnas_jax.training.checkpoint_reader import CheckpointReader
from bnas_jax.training.evaluation_step import EvaluationStep
from bnas_jax.training.load import restored_model
from bnas_jax.training.run_data import evaluation_images
from bnas_jax.training.workdir import WorkDir


class Evaluator:
    """Evaluates a model on one data set. The step is compiled once.

    model: a network or a supernet.
    examples: the data set.
    augmentation: the normalisation of the images, and their augmentation if there is an
        `augment_seed`.
    searcher: makes the mixture weights of a supernet from alpha; None for a network.
    augment_seed: the seed of the augmentation; None for images without augmentation.
    batch_size: None takes that of the settings.
    batch_statistics: see `EvaluationStep`.
    """

    def __init__(
        self,
        model: nn.Module,
        examples: Arrays | Encoded,
        augmentation: Augmentation,
        run: RunSettings,
        *,
        where: Devices = devices.ONE,
        searcher: Searcher | None = None,
        augment_seed: int | None = None,
        batch_size: int | None = None,
        batch_statistics: bool = False,
    ):
        # Round up to a multiple of the number of devices. The last batch is padded with
        # examples of weight 0.
        batch_size = batch_size or min(run.eval_batch_size, len(examples))
        batch_size = -(-batch_size // where.count) * where.count
        self.batch_size = batch_size
        self._name = examples.name

        self._source = eval_source(
            examples,
            batch_size=batch_size,
            augmentation=augmentation,
            dtype=model.arithmetic.dtype,
            placement=where.placement(),
            augment_seed=augment_seed,
        )
        step = EvaluationStep(
            model, searcher=searcher, axis=where.axis, batch_statistics=batch_statistics
        )

        # As in training, the batch is made from its feed inside the compiled function.
        def evaluation(variables, feed):
            return step(variables, where.batch(self._source, feed))

        self._step = where.compile_evaluation(evaluation)

    def call(self, variables: dict, *, batch: int = 0, epoch: int = 0) -> Call:
        """The program of a batch and its arguments, for `compile_together`."""
        return self._step, (variables, self._source.feed(batch, epoch))

    def __call__(
        self,
        variables: dict,
        *,
        epoch: int = 0,
        between_batches: Callable[[], object] = lambda: None,
        batches: Sequence[int] | None = None,
    ) -> dict[str, float]:
        """{"top1", "top5"} in %, the mean "loss" and "num_examples".

        variables: {"params", "batch_stats"}, and "alphas" of a supernet.
        epoch: seeds the augmentation, if images are augmented.
        between_batches: called between two batches; an exception that it raises ends
            the evaluation.
        batches: the numbers of the batches to evaluate on; None for all.
        """
        # The sums of each batch.
        sums: list[Any] = []
        for batch in batches or range(len(self._source)):
            if sums:
                # A call returns before its batch is computed. Waiting for the batch
                # before the last limits the queue to two batches, so that
                # `between_batches` is called about when a batch ends.
                jax.block_until_ready(sums[-2:-1])
                between_batches()
            program, arguments = self.call(variables, batch=batch, epoch=epoch)
            sums.append(program(*arguments))

        # Add them up in float64: in float32, a sum over many batches would lose digits.
        added = lambda *parts: sum(float(part) for part in parts)
        total = jax.tree.map(added, *sums)
        count = total.examples
        # A stream notices only now that all of its images were left out.
        if not count:
            raise UserError(f"{self._name}: there is no image that decodes")
        return {
            "top1": 100 * total.top1 / count,
            "top5": 100 * total.top5 / count,
            "loss": total.loss / count,
            "num_examples": int(count),
        }


def evaluate(workdir: WorkDir, run: Settings, which: str = "last") -> dict:
    """Evaluates a checkpoint of `train` or `import` on the test split.

    Returns {"top1", "top5", "loss", "num_examples", "step"}.

    run: the work directory's settings, perhaps with another data set. Another data set
        is normalised, and its classes are numbered, like the run's data (`data.facts`).
    which: `last`, `best` or a step.

    Raises `UserError` for a search, for a data set with other channels or unknown
    classes, and if there is no such checkpoint.
    """
    if not isinstance(run, TrainSettings):
        raise UserError(
            f"{workdir.path} holds a search; evaluate takes the work directory of a "
            "training"
        )
    where = jax_setup.configure(run)
    facts = facts_lib.from_dict(workdir.facts())
    test, augmentation = evaluation_images(run.dataset, facts)

    # The network, and its variables from the checkpoint.
    model, shapes = restored_model(run, facts)
    checkpoints = CheckpointReader(workdir.checkpoints, where)
    step, variables = checkpoints.restore_variables(shapes, which)

    # The evaluation.
    evaluator = Evaluator(model, test, augmentation, run, where=where)
    used = {name: variables[name] for name in ("params", "batch_stats")}
    result = evaluator(used)
    return {**result, "step": step}
