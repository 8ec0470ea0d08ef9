"""How the options of a command are read: what is wrong with them is a `UserError` with what to write instead."""

import contextlib
import re
from typing import Any

from absl import flags

from bnas_jax import spelling
from bnas_jax.core.errors import UserError


@contextlib.contextmanager
def mistakes():
    """Every mistake in the arguments of a command, and whatever a config's file raises, is a `UserError`."""
    try:
        yield
    except flags.UnrecognizedFlagError as error:
        advice = error.args[0].partition("Did you mean")[1:]
        hint = "".join(advice) or f"a setting is written {spelling.PREFIX}KEY=VALUE"
        raise UserError(f"Unknown command line flag '{error.flagname}'; {hint}") from None
    except UserError:
        raise
    except Exception as error:
        # A config that raises is reported with its whole traceback; its last line says what is wrong.
        message = re.split(r"Traceback.*\b\w+Error: ", " ".join(str(error).split()))[-1]
        raise UserError(message or type(error).__name__) from error


def read_flags(values: flags.FlagValues, arguments: list[str], command: str) -> None:
    """Reads the options of a command; settings, where it takes any, are `spelling.override`'s."""
    takes_settings = "config" in values
    others = [a for a in arguments if not (takes_settings and spelling.is_setting(a))]
    with mistakes():
        rest = values([command, *others])[1:]
    if not rest:
        return
    position = arguments.index(rest[0])
    if position and arguments[position - 1].endswith(","):
        raise UserError(f"unexpected argument {rest[0]!r}; a list is written without spaces, or in quotes")
    if "=" in rest[0]:
        raise UserError(f"unexpected argument {rest[0]!r}; write --{rest[0]}")
    raise UserError(f"unexpected argument {rest[0]!r}; options are written --name=value")


def required(values: flags.FlagValues, name: str) -> str:
    value = values[name].value
    if not value:
        raise UserError(f"--{name} is missing; write --{name}=...")
    return str(value)


def number(values: flags.FlagValues, name: str, kind: type) -> Any:
    text = values[name].value
    return None if text is None else spelling.read(text, kind, f"--{name}")


def options(arguments: list[str], command: str, *names: str) -> flags.FlagValues:
    """The flags of a command that takes strings alone."""
    values = flags.FlagValues()
    for name in names:
        flags.DEFINE_string(name, None, name, flag_values=values)
    read_flags(values, arguments, command)
    return values
