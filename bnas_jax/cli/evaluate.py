"""`evaluate`: evaluates a checkpoint or a packed network on test images."""

import dataclasses

from absl import flags
from ml_collections import ConfigDict

from bnas_jax import settings
from bnas_jax.cli.configs import Loaded, define_config, last, workdir_of
from bnas_jax.cli.flags import read_flags
from bnas_jax.core.errors import UserError
from bnas_jax.settings import parse, template

# Besides the settings of the data and of `distributed`, an evaluation may change these.
# None of them changes the network.
EVALUATED_ANEW = ("eval_batch_size", "precision", "matmul_precision", "parallel")


def evaluate(arguments: list[str], loaded: Loaded) -> dict:
    """Evaluates a checkpoint in a work directory, or a file that `export` wrote."""
    from bnas_jax.deploy import evaluate as deployed
    from bnas_jax.deploy import load
    from bnas_jax.training.evaluate import evaluate

    # The settings of the run, from the file or from the work directory.
    file = last(arguments, "--model=")
    if file == "":
        raise UserError("--model is missing; write --model=FILE, which export wrote")
    if file is not None:
        _refuse_both(arguments)
        packed = load.read(file, loaded)
        resolved = settings.to_dict(packed.run)
    else:
        workdir = workdir_of(_workdir_argument(arguments), loaded)
        resolved = workdir.config()

    # Read the options, and change the settings as they say.
    open_settings = _open_settings(resolved, arguments)
    values = flags.FlagValues()
    define_config(values, config=open_settings, arguments=arguments, command="evaluate")
    flags.DEFINE_string("workdir", None, "work directory", flag_values=values)
    flags.DEFINE_string("model", None, "file that export wrote", flag_values=values)
    flags.DEFINE_string("step", "last", "best, last or a step", flag_values=values)
    read_flags(values, arguments=arguments, command="evaluate")
    if open_settings.precision == "float64":
        # In float64 nothing is rounded to bfloat16; the settings refuse both together.
        resolved = {**resolved, "activations": None}
    run = settings.from_config({**resolved, **parse.plain(open_settings)})
    if file is not None:
        assert isinstance(run, settings.TrainSettings)  # as in the file
        return deployed.evaluate(packed, run)
    return evaluate(workdir, run, which=values.step)


def _open_settings(resolved: dict, arguments: list[str]) -> ConfigDict:
    """The settings that an evaluation may change, with the run's values.

    resolved: the settings of the run.
    """
    changeable = {name: resolved.get(name) for name in EVALUATED_ANEW}
    open_settings = ConfigDict(changeable)

    # By default one process, whatever the run had.
    alone = dataclasses.asdict(settings.DistributedSettings())
    open_settings.distributed = template.fields(settings.DistributedSettings, alone)

    dataset = _for_source(resolved.get("dataset") or {}, arguments)
    open_settings.dataset = template.fields(settings.DatasetSettings, dataset)
    return open_settings


def _for_source(dataset: dict, arguments: list[str]) -> dict:
    """The settings of the run's data, made fit for the data set to evaluate on.

    Settings without effect on that data set get their defaults.
    """
    name = last(arguments, "--config.dataset.name=")
    if name:
        return settings.for_data(dataset, name)
    return dataset


def _refuse_both(arguments: list[str]) -> None:
    """Raises `UserError` for --workdir or --step together with --model."""
    for option in ("--workdir=", "--step="):
        if last(arguments, option) is not None:
            raise UserError(
                f"--model is a network by itself; leave {option.rstrip('=')} out"
            )


def _workdir_argument(arguments: list[str]) -> str:
    """The value of --workdir; raises `UserError` without one.

    It is needed before the flags are defined, because they depend on the run's
    settings.
    """
    given = last(arguments, "--workdir=")
    if not given:
        raise UserError(
            "--workdir is missing; write --workdir=DIR, the directory that train wrote"
        )
    return given
