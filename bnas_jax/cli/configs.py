"""What commands share: settings from --config and from the command line, and work directories."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from bnas_jax import extensions, preset_files, settings, spelling
from bnas_jax.cli.flags import mistakes, read_flags
from bnas_jax.core import paths
from bnas_jax.core.errors import UserError
from bnas_jax.extensions import Extension
from bnas_jax.settings import Settings, template

if TYPE_CHECKING:
    from bnas_jax.training.workdir import WorkDir

# What every command takes beside its arguments: the extensions that were loaded before.
Loaded = tuple[Extension, ...]


def configured(
    arguments: list[str], command: str, **options: str | bool | None
) -> tuple[Settings | None, flags.FlagValues]:
    """(settings of --config, None without one; the flags). options: names of flags to their defaults; strings unless bool."""
    values = flags.FlagValues()
    arguments = _config_arguments(arguments)
    config_flags.DEFINE_config_file(
        "config", None, "FILE.py:VARIANT", flag_values=values, sys_argv=[command]
    )
    for name, default in options.items():
        define: Callable = (
            flags.DEFINE_boolean if isinstance(default, bool) else flags.DEFINE_string
        )
        define(name, default, name, flag_values=values)
    read_flags(values, arguments, command)
    if values.config is None:
        _refuse_settings(arguments)
        return None, values
    if not isinstance(values.config, ConfigDict):
        given = type(values.config).__name__
        raise UserError(
            f"get_config() of --config gives a {given}, not the ConfigDict of configs/train.py or search.py; change that one"
        )
    with mistakes():
        override(values.config, arguments)
    return settings.from_config(values.config), values


def _config_arguments(arguments: list[str]) -> list[str]:
    """The arguments with --config's file found: as given, or else in the project's folder. Its imports are found, too."""
    found = list(arguments)
    for position, argument in enumerate(found):
        if argument.startswith("--config="):
            given = argument.removeprefix("--config=")
            paths.local(given, "--config")  # refuses an address, which has a colon of its own
            name, _, variant = given.partition(":")
            path = preset_files.find(
                name, "--config", "configs/search.py:VARIANT or configs/train.py:VARIANT"
            )
            found[position] = f"--config={path}" + (f":{variant}" if variant else "")
    return found


def _refuse_settings(arguments: list[str]) -> None:
    for argument in filter(spelling.is_setting, arguments):
        raise UserError(f"{argument} is a setting of a config; write --config=FILE.py:VARIANT, too")


def task_of(run: Settings | None, kind: type | tuple[type, ...], command: str, example: str) -> Any:
    if run is None:
        raise UserError(f"{command} needs a config; write --config={example}")
    if not isinstance(run, kind):
        raise UserError(
            f"this config is for {run.task}; {command} takes one such as --config={example}"
        )
    return run


def define_config(
    values: flags.FlagValues, config: ConfigDict, arguments: list[str], command: str
) -> None:
    """Sets what the arguments say in `config`, the settings of a command that takes no file of them."""
    if any(a.partition("=")[0] == "--config" for a in arguments):
        raise UserError(
            f"{command} takes no --config=FILE; its settings are written {spelling.PREFIX}KEY=VALUE"
        )
    flags.DEFINE_string("config", None, "KEY=VALUE behind a dot", flag_values=values)
    override(config, arguments)


def override(config: ConfigDict, arguments: list[str]) -> None:
    """Sets what the arguments say in `config`; a setting's old name is an error that says the new one."""
    for argument in filter(spelling.is_setting, arguments):
        name = argument.removeprefix("--no").removeprefix("--").partition("=")[0]
        parts = name.split(".")
        for end in range(len(parts), 1, -1):
            settings.refuse_old_name(".".join(parts[:end]))
    for group in template.GROUPS:
        entry = last(arguments, f"{spelling.PREFIX}{group}.name=")
        if entry and "name" in config.get(group, ()):
            template.choose(config, group, entry)
    spelling.override(config, arguments)


def last(arguments: list[str], prefix: str) -> str | None:
    """What stands behind the prefix in the last argument that has it."""
    return next((a.removeprefix(prefix) for a in reversed(arguments) if a.startswith(prefix)), None)


def preset_of(variant: str) -> ConfigDict:
    path = preset_files.find("train", "--preset", "VARIANT, a variant of configs/train.py")
    values = flags.FlagValues()
    arguments = [f"--config={path}:{variant}"]
    config_flags.DEFINE_config_file(
        "config", None, "preset", flag_values=values, sys_argv=["import"]
    )
    read_flags(values, arguments, "import")
    return values.config


def workdir_of(path: str, loaded: Loaded) -> "WorkDir":
    """A work directory, whose run was made with no extensions but those that are loaded."""
    from bnas_jax.training.workdir import WorkDir

    workdir = WorkDir(path, extensions=[extension._asdict() for extension in loaded])
    extensions.check(workdir.path, loaded)
    return workdir
