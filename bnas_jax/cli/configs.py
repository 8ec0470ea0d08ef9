"""Functions that commands share: they read --config, settings and work directories."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from bnas_jax import extensions, preset_files, settings, spelling
from bnas_jax.cli.flags import mistakes, read_flags, required
from bnas_jax.core import paths
from bnas_jax.core.errors import UserError
from bnas_jax.extensions import Extension
from bnas_jax.settings import Settings, entries, template

if TYPE_CHECKING:
    from bnas_jax.training.workdir import WorkDir

# The second argument of every command: the extensions, which are already loaded.
Loaded = tuple[Extension, ...]


def configured(
    arguments: list[str], command: str, **options: str | bool | None
) -> tuple[Settings | None, flags.FlagValues]:
    """(the settings of --config, or None without --config; the flags of the command).

    options: the names of the command's flags and their defaults. A bool defines a
    switch, anything else an option with a text.
    """
    # Define the flags. Without `sys_argv`, ml_collections would itself read settings
    # from the command line of this process.
    values = flags.FlagValues()
    arguments = _config_arguments(arguments)
    config_flags.DEFINE_config_file(
        "config", None, "FILE.py:VARIANT", flag_values=values, sys_argv=[command]
    )
    # A bool defines a switch.
    for name, default in options.items():
        define: Callable = flags.DEFINE_string
        if isinstance(default, bool):
            define = flags.DEFINE_boolean
        define(name, default=default, help=name, flag_values=values)
    read_flags(values, arguments, command)

    # Refuse a value that is not a config.
    if values.config is None:
        if last(arguments, "--config=") is not None:
            raise UserError(
                "get_config() of --config returns nothing; end it with: return config"
            )
        _refuse_settings(arguments)
        return None, values
    if not isinstance(values.config, ConfigDict):
        given = type(values.config).__name__
        raise UserError(
            f"get_config() of --config gives a {given}, not the ConfigDict of "
            "configs/train.py or search.py; change that one"
        )

    # Settings of the command line override those of the file.
    with mistakes():
        override(values.config, arguments)
    run = settings.from_config(values.config)
    _refuse_unread(run, arguments)
    return run, values


def _config_arguments(arguments: list[str]) -> list[str]:
    """The arguments, with the file of --config as a path, see `preset_files.find`."""
    found = []
    for argument in arguments:
        if argument.startswith("--config="):
            argument = _config_argument(argument.removeprefix("--config="))
        found.append(argument)
    return found


def _config_argument(given: str) -> str:
    """--config=PATH:VARIANT for a given value of --config."""
    # Refuse a URL first: its colon would look like the beginning of a variant.
    paths.local(given, "--config")
    name, _, variant = given.partition(":")
    example = "configs/search.py:VARIANT or configs/train.py:VARIANT"
    path = preset_files.find(name, "--config", example=example)
    if not variant:
        return f"--config={path}"
    return f"--config={path}:{variant}"


def _refuse_settings(arguments: list[str]) -> None:
    """Raises `UserError` for a setting in a command line without --config."""
    for argument in filter(spelling.is_setting, arguments):
        raise UserError(
            f"{argument} is a setting of a config; write --config=FILE.py:VARIANT, too"
        )


def _refuse_unread(run: Settings, arguments: list[str]) -> None:
    """Raises `UserError` for written settings that the run never reads."""
    unread = settings.unread(run)
    found = []
    for argument in filter(spelling.is_setting, arguments):
        name = spelling.key(argument)
        # The setting itself, or the group that it is in.
        needed = unread.get(name, unread.get(name.partition(".")[0]))
        if needed is not None:
            found.append(
                f"config.{name} has no effect here: leave it out, or write {needed}"
            )
    if found:
        raise UserError("; ".join(found))


def task_of(
    run: Settings | None, kind: type | tuple[type, ...], command: str, example: str
) -> Any:
    """The settings, if they are of the kind that a command needs.

    Raises `UserError` for missing settings and for those of another kind.

    example: a value of --config, for the error.
    """
    if run is None:
        raise UserError(f"{command} needs a config; write --config={example}")
    if not isinstance(run, kind):
        raise UserError(
            f"this config is for {run.task}; {command} takes one such as "
            f"--config={example}"
        )
    return run


def define_config(
    values: flags.FlagValues, config: ConfigDict, arguments: list[str], command: str
) -> None:
    """Overrides `config` by the settings of a command that takes no --config=FILE."""
    names = [argument.partition("=")[0] for argument in arguments]
    if "--config" in names:
        raise UserError(
            f"{command} takes no --config=FILE; its settings are written "
            f"{spelling.PREFIX}KEY=VALUE"
        )
    # This flag only serves the message about an unknown option; settings are not flags.
    flags.DEFINE_string("config", None, "KEY=VALUE behind a dot", flag_values=values)
    override(config, arguments)


def override(config: ConfigDict, arguments: list[str]) -> None:
    """Overrides `config` by the settings among the arguments.

    Raises `UserError` for the old name of a setting, with the new one.
    """
    for argument in filter(spelling.is_setting, arguments):
        name = f"config.{spelling.key(argument)}"
        # The longest name first: config.rules.relu has another successor than
        # config.rules.
        parts = name.split(".")
        for end in range(len(parts), 1, -1):
            settings.refuse_old_name(".".join(parts[:end]))

    # Set the name of a scheme, for instance, before its settings, in whatever order
    # they are written.
    for group in entries.GROUPS:
        entry = last(arguments, f"{spelling.PREFIX}{group}.name=")
        if entry and "name" in config.get(group, ()):
            template.choose(config, name=group, entry=entry)
    spelling.override(config, arguments)


def last(arguments: list[str], prefix: str) -> str | None:
    """The rest of the last argument that begins with the prefix, or None."""
    for argument in reversed(arguments):
        if argument.startswith(prefix):
            return argument.removeprefix(prefix)
    return None


def preset_of(variant: str) -> ConfigDict:
    """The config of a variant of configs/train.py."""
    example = "VARIANT, a variant of configs/train.py"
    path = preset_files.find("train", "--preset", example=example)
    # ml_collections reads config files only through a flag.
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", None, "preset", flag_values=values, sys_argv=["import"]
    )
    read_flags(values, arguments=[f"--config={path}:{variant}"], command="import")
    return values.config


def workdir_to_write(values: flags.FlagValues, loaded: Loaded) -> "WorkDir":
    """The work directory of --workdir, for a command that writes a run there."""
    example = "DIR, a directory for what the run writes"
    return workdir_of(required(values, "workdir", example=example), loaded)


def workdir_of(path: str, loaded: Loaded) -> "WorkDir":
    """The work directory at a path; a run in it notes the loaded extensions.

    Raises `UserError` if its run was made with an extension that is not loaded now.
    """
    # Imported here because it loads JAX: errors in the options come first.
    from bnas_jax.training.workdir import WorkDir

    noted = [extension._asdict() for extension in loaded]
    workdir = WorkDir(path, extensions=noted)
    extensions.check(workdir.path, loaded)
    return workdir
