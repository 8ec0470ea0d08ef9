"""Reads the options of a command.

An error in an option is a `UserError` that says what to write instead.
"""

import contextlib
import difflib
import pathlib
from typing import Any

from absl import flags

from bnas_jax import extensions, spelling
from bnas_jax.core.errors import UserError


@contextlib.contextmanager
def mistakes(file: str | pathlib.Path | None = None, *, function: str = "get_config"):
    """Turns any exception inside `with` into a `UserError`.

    file: a user's Python file that is run inside `with`; the message then names the
        line of the error.
    function: the function of that file that is called.
    """
    try:
        yield
    # absl, ml_collections and a user's config raise exceptions of any class.
    except Exception as error:
        cause = _cause(error)
        if isinstance(cause, UserError):
            raise cause from None
        # The message in one line, with the file and line of the error.
        message = " ".join(str(cause).split())
        if file is not None:
            line = extensions.line_of(cause, pathlib.Path(file))
            message = f"{file}{line}: {type(cause).__name__}: {message}"
            if not line:
                message = _about(function, file=file, message=message)
        raise UserError(message or type(cause).__name__) from error


def _about(function: str, *, file: str | pathlib.Path, message: str) -> str:
    """The message for a file whose function is missing or takes other arguments.

    Any other message is returned unchanged.
    """
    # The file lacks the function.
    if f"'{function}'" in message:
        examples = {
            "get_config": "train",
            "get_study": "studies",
            "get_reproduction": "reproduce",
        }
        shown = examples[function]
        return f"{file} has no function {function}(); configs/{shown}.py shows one"
    # The function takes no variant, or needs one.
    if f"{function}() takes 0 positional arguments" in message:
        return (
            f"{function}() of {file} takes no variant; leave out what follows the colon"
        )
    if f"{function}() missing 1 required positional argument" in message:
        return (
            f"{function}() of {file} takes a variant; write it after a colon, "
            f"{file}:VARIANT"
        )
    return message


def _cause(error: Exception) -> BaseException:
    """The exception that absl or ml_collections wrapped in one of their own.

    For an error of theirs, it is the error itself.
    """
    cause: BaseException = error
    while _is_wrapper(cause):
        # absl or ml_collections raised this one itself.
        if cause.__context__ is None:
            break
        cause = cause.__context__
    return cause


def _is_wrapper(error: BaseException) -> bool:
    """Whether absl or ml_collections raised the error; it may wrap another one."""
    of_ml_collections = str(error).startswith("Error whilst parsing")
    return isinstance(error, flags.Error) or of_ml_collections


def read_flags(values: flags.FlagValues, arguments: list[str], command: str) -> None:
    """Reads the options of a command into `values`.

    Words that set settings are skipped; `spelling.override` reads them.

    Raises `UserError` for an unknown or malformed option, and for any other word.
    """
    others = arguments
    if "config" in values:
        others = [word for word in arguments if not spelling.is_setting(word)]
    with mistakes(_config_file(others)):
        rest = _parsed(values, others, command)
    if not rest:
        return

    # There is a word that belongs to no option: guess what the user meant.
    position = arguments.index(rest[0])
    if position and arguments[position - 1].endswith(","):
        # `--config.mean=0.5, 0.5` is two words to a shell.
        advice = "a list is written without spaces, or in quotes"
    # An option that lacks its dashes.
    elif "=" in rest[0]:
        name = rest[0].partition("=")[0]
        advice = f"write --{rest[0]}"
        if name not in values and not name.startswith("config."):
            advice = _takes(values, command)
    else:
        advice = f"options are written --name=value; {_takes(values, command)}"
    raise UserError(f"unexpected argument {rest[0]!r}; {advice}")


def _config_file(arguments: list[str]) -> str | None:
    """The file of --config, the last of several; None without one."""
    for argument in reversed(arguments):
        if argument.startswith("--config="):
            return argument.removeprefix("--config=").partition(":")[0]
    return None


def _parsed(values: flags.FlagValues, arguments: list[str], command: str) -> list[str]:
    """Sets the flags; returns the words that belong to no flag."""
    # absl would take the next option as the missing value.
    for argument in arguments:
        name = argument.removeprefix("--")
        if argument.startswith("--") and name in values and not values[name].boolean:
            raise UserError(
                f"Missing value for flag {argument}; write {argument}=VALUE"
            )

    # absl expects and returns the name of the program as the first word.
    try:
        return values([command, *arguments])[1:]
    except flags.UnrecognizedFlagError as error:
        hint = _known(values, error.flagname, command)
        raise UserError(
            f"Unknown command line flag '{error.flagname}'; {hint}"
        ) from None
    except flags.IllegalFlagValueError as error:
        # absl's message shows Python code. For a switch and an enum we can say what to
        # write.
        written = [a for a in arguments if str(error).startswith(f"flag {a}:")]
        allowed = None
        if written:
            name = written[-1].partition("=")[0].removeprefix("--")
            allowed = _allowed(values, name)
        if allowed is None:
            raise
        raise UserError(f"{written[-1]}: write {allowed}") from None


def _known(values: flags.FlagValues, name: str, command: str) -> str:
    """The advice for an unknown flag: a flag with a similar name, or all flags."""
    options = sorted(set(values))
    close = difflib.get_close_matches(name.replace("-", "_"), options, n=1)
    # The name is probably misspelled.
    if close:
        return f"did you mean --{close[0]}?"
    return _takes(values, command)


def _takes(values: flags.FlagValues, command: str) -> str:
    """The options of a command, as part of a sentence."""
    options = [f"--{option}" for option in sorted(set(values))]
    takes = f"{command} takes {', '.join(options)}"
    if "config" in values:
        takes += f"; a setting is written {spelling.PREFIX}KEY=VALUE"
    return takes


def _allowed(values: flags.FlagValues, name: str) -> str | None:
    """The values of a switch or an enum flag, as part of a sentence.

    None for any other flag.
    """
    if name not in values:
        return None
    if isinstance(values[name], flags.BooleanFlag):
        return "True or False"
    parser = values[name].parser
    if isinstance(parser, flags.EnumParser):
        return " or ".join(parser.enum_values)
    return None


def required(values: flags.FlagValues, name: str, *, example: str) -> str:
    """The value of a flag that must be given; raises `UserError` if it is missing.

    example: a value of the flag, for the error.
    """
    value = values[name].value
    if not value:
        raise UserError(f"--{name} is missing; write --{name}={example}")
    return str(value)


def number(
    values: flags.FlagValues, name: str, kind: type, *, least: int | None = None
) -> Any:
    """The value of a flag as a number; None if the flag is not given.

    Raises `UserError` for a value that is not a number or below `least`.

    kind: int or float.
    """
    text = values[name].value
    if text is None:
        return None
    value = spelling.read(text, kind=kind, name=f"--{name}")
    # The text may be `None`.
    if least is not None and (value is None or value < least):
        raise UserError(f"--{name} must be at least {least}, got {text}")
    return value


def options(arguments: list[str], command: str, *names: str) -> flags.FlagValues:
    """The flags of a command whose options all have texts as values.

    names: the names of the options.
    """
    values = flags.FlagValues()
    for name in names:
        flags.DEFINE_string(name, None, name, flag_values=values)
    read_flags(values, arguments, command)
    return values


def second_word(
    command: str, words: tuple[str, ...], arguments: list[str]
) -> list[str]:
    """The arguments, if the first one is one of the words; else raises `UserError`."""
    if arguments and arguments[0] in words:
        return arguments
    found = ""
    if arguments:
        found = f", got {arguments[0]!r}"
    raise UserError(
        f"{command} needs one of {', '.join(words)} after it{found}; write {command} "
        f"{words[0]} ..."
    )
