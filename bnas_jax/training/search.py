"""Searching a cell, from settings to genotype.json in the work directory (section 5.1)."""

import functools
from collections.abc import Callable

import jax
import numpy as np

from bnas_jax.core import alphas as alphas_lib
from bnas_jax.core import genotype as genotype_lib
from bnas_jax.core.errors import UserError
from bnas_jax.core.supernet import Supernet
from bnas_jax.data.halves import split_half
from bnas_jax.data.load import Dataset
from bnas_jax.data.sources import train_source
from bnas_jax.search.bnas import Bnas, Searcher
from bnas_jax.settings import SearchSettings
from bnas_jax.runtime import devices, hosts
from bnas_jax.training import loop, optimizers, steps
from bnas_jax.training.checkpoints import Checkpoints
from bnas_jax.training.derive import HISTORY, rule_of, taken
from bnas_jax.runtime.devices import Devices
from bnas_jax.training.evaluate import Evaluator, load_run_data
from bnas_jax.training.program import Program
from bnas_jax.training.state import SearchState, Sums, create_search_state
from bnas_jax.training.train import epoch_record, prepare
from bnas_jax.training.workdir import WorkDir, whole, write_json

# What images are used for; see `_seed`.
TRAINING, ALPHA, VALIDATION = range(3)


def build_supernet(run: SearchSettings, num_classes: int, axis: str | None = None) -> Supernet:
    """The search's network. axis: that of its devices."""
    net = run.network
    return Supernet(net.num_cells, net.channels, num_classes, net.layer_types, net.skip, run.layer_rules(axis))


def build_searcher(run: SearchSettings) -> Searcher:
    """The search algorithm of a run."""
    alphas, rules = run.alphas, run.derive
    return Bnas(
        run.network.layer_types,
        diversity=alphas.diversity,
        tau=alphas.tau,
        gamma=rules.gamma,
        keep_zeroise=rules.keep_zeroise,
        dtype=run.layer_rules().dtype,
        entropy=alphas.entropy,
    )


def program(run: SearchSettings, data: Dataset, where: Devices) -> Program:
    """The search of a cell; its steps' first half is alpha's, its second the weights'. See `Devices.halves`."""
    model, searcher = build_supernet(run, data.train.num_classes, where.axis), build_searcher(run)
    # Half of the training set for the weights, half for alpha; the test set stays unseen.
    halves = split_half(data.train, run.seed, run.dataset.search_split)

    def source_of(examples, use: int, fresh: bool):
        placement, dtype = where.placement(run.microbatches), model.rules.dtype
        seed = _seed(run, use)
        return train_source(examples, run.batch_size, seed, data.augmentation, dtype, placement, fresh=fresh)

    source = source_of(halves[0], TRAINING, fresh=False)
    valid_source = source_of(halves[1], ALPHA, fresh=run.alpha_batches == "fresh")
    optimizer, alphas_optimizer = optimizers.for_search(run, source.steps_per_epoch), optimizers.alphas_optimizer(run.alphas)

    def half(state: SearchState, feed, for_alphas) -> SearchState:
        """feed: those of both sources."""
        valid_feed, train_feed = feed
        valid_batch = lambda: where.batch(valid_source, valid_feed, run.microbatches)
        train_batch = lambda: where.batch(source, train_feed, run.microbatches)
        return steps.search_half(
            state,
            steps.either(for_alphas, valid_batch, train_batch),
            for_alphas,
            model=model,
            searcher=searcher,
            optimizer=optimizer,
            alphas_optimizer=alphas_optimizer,
            steps_per_epoch=source.steps_per_epoch,
            microbatches=run.microbatches,
            axis=where.axis,
        )

    shape = data.train.image_shape
    create = lambda: create_search_state(model, searcher, shape, optimizer, alphas_optimizer, run.seed, run.num_epochs)
    stages, feeds = where.halves(half, lambda step: (valid_source.feed(step), source.feed(step)), run.halves)
    return Program(model, create, stages, feeds, source.steps_per_epoch, halves[1])


def _seed(run: SearchSettings, use: int) -> int:
    """What is random about the images of each use is drawn by a seed of its own."""
    return (run.seed + use) % 2**32


def search(run: SearchSettings, workdir: WorkDir, where: Devices | None = None, change: bool = False) -> dict:
    """Searches, or goes on where the work directory stands. Returns the genotype taken: summary.json.

    where: the devices to use, once JAX is configured; None is those of the settings. change: goes on with other settings.
    """
    _check_cells(run.network.num_cells)
    where = where or devices.configure(run)
    where.check_batch(run)
    data, facts = load_run_data(run, workdir, change=change)
    model, create, stages, feeds, steps_per_epoch, held_out = program(run, data, where)
    searcher = build_searcher(run)
    shapes = jax.eval_shape(create)  # refuses an image size that the network cannot take before anything is written
    workdir.open(run, facts, change=change)
    checkpoints = Checkpoints(workdir.checkpoints, run.checkpoint, where)
    changed = change or bool(workdir.changed())
    begin = lambda: checkpoints.restore_state(shapes, changed) or where.create(create)
    compiled = where.compile_steps(*stages)
    augment_seed = _seed(run, VALIDATION) if run.dataset.augment_validation else None
    evaluator = Evaluator(model, held_out, data.augmentation, run, where, augment_seed=augment_seed)

    def finish_epoch(state: SearchState, epoch: int, between_batches: Callable[[], None]):
        valid = evaluator(*state.variables, epoch=epoch, between_batches=between_batches)
        genotype = searcher.derive(state.alphas)
        record = {
            **epoch_record(state, epoch, "valid", valid),
            "alpha_entropy": float(alphas_lib.entropy(state.alphas)),
            "learnable_share": genotype_lib.learnable_share(genotype),
            "genotype": genotype.to_dict(),
        }
        state = state.replace(
            sums=Sums.zeros(model.rules.dtype),
            history=jax.tree.map(lambda h, a: h.at[epoch + 1].set(a), state.history, state.alphas),
            valid_top1=state.valid_top1.at[epoch].set(valid["top1"]),
        )
        _write_history(workdir, state, epoch)
        return state, record, valid["top1"]

    work = loop.Work(
        steps_per_epoch,
        prepare=functools.partial(prepare, compiled, feeds, evaluator),
        advance=lambda state, steps: compiled(state, [feeds(step) for step in steps]),
        finish_epoch=finish_epoch,
    )
    state = loop.run(begin, run, workdir, checkpoints, work, where)
    record = taken(run, searcher, rule_of(run), {**state.history, "valid_top1": state.valid_top1})
    write_json(workdir / "genotype.json", record)
    genotype = {name: record[name] for name in ("normal", "reduce")}
    summary = {
        "genotype": genotype,
        "valid_top1": record["valid_top1"],
        "epoch": record["epoch"],
        "steps": int(state.step),
    }
    write_json(workdir / "summary.json", summary)
    return summary


def _check_cells(num_cells: int) -> None:
    """A genotype has both kinds of cell, so that a supernet without normal cells, which can be timed, has none to give."""
    if len(genotype_lib.reductions(num_cells)) == num_cells:
        raise UserError(
            f"config.network.num_cells must be at least 3 for a search, got {num_cells}: both kinds of cell are searched,"
            " and with fewer all are reduction cells"
        )


def _write_history(workdir: WorkDir, state: SearchState, epoch: int) -> None:
    """alphas.npz: alpha before the first and after each epoch, and the validation accuracies in %."""
    if not hosts.is_first():
        return
    normal, reduce = (np.asarray(state.history[name][: epoch + 2]) for name in ("normal", "reduce"))
    with whole(workdir / HISTORY) as part:
        np.savez(part, normal=normal, reduce=reduce, valid_top1=np.asarray(state.valid_top1[: epoch + 1]))
