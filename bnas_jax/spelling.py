"""Reads options and settings from the command line (docs/usage.md).

It turns each text into a value of the setting's type.
"""

import difflib
import math
import re
from collections.abc import Mapping
from typing import Any

from bnas_jax.core.errors import UserError

PREFIX = "--config."
# The prefix that turns a switch off.
_OFF = "--noconfig."
# The spellings of True and False, in lower case.
_SWITCHES = {
    **dict.fromkeys(("true", "t", "yes", "y", "on", "1"), True),
    **dict.fromkeys(("false", "f", "no", "n", "off", "0"), False),
}
# The spelling of a value of each type, for error messages.
_SHOWN = {
    int: "a whole number: 64 or 1e2",
    float: "a number: 0.1 or 1e-3",
    bool: "True or False",
}
# Larger than any size, step or seed.
_TOO_LARGE = 1e18
_QUOTED = re.compile(r"(['\"])(.*)\1", re.DOTALL)


def options(words: list[str]) -> list[str]:
    """The words of a command line, with each option as `--name=value` or `--name`.

    `-name` becomes `--name`. Any other word becomes the value of the preceding option
    if that has no value yet.
    """
    found: list[str] = []
    for word in words:
        if re.match(r"--?[A-Za-z]", word):
            found.append("--" + word.lstrip("-"))
        elif found and found[-1].startswith("--") and "=" not in found[-1]:
            found[-1] += "=" + word
        else:
            found.append(word)
    return found


def read(text: str, kind: type, name: str) -> Any:
    """The value that a text stands for, in the type of the option or setting `name`.

    The text `None` is None in every type. Raises `UserError` for a text that is not a
    value of the type.

    kind: int, float, bool, tuple or str; NoneType if the type is not known.
    """
    # A shell may have left quotes around the text.
    plain = _unquoted(text.strip())
    if plain == "None" or (kind is not str and plain.lower() in ("none", "null")):
        return None

    # Lists and switches.
    if kind is tuple:
        return _list(plain, name)
    if kind is bool and plain.lower() in _SWITCHES:
        return _SWITCHES[plain.lower()]

    # Numbers. An int may be written like a float, as 1e5, but 0.5 is not an int.
    if kind in (int, float):
        number = _number(plain)
        if kind is int and number is not None and _TOO_LARGE <= abs(number) < math.inf:
            raise UserError(
                f"{name}={text} is too large; write a whole number below "
                f"{_TOO_LARGE:.0e}"
            )
        if number is not None and (kind is float or isinstance(number, int)):
            return kind(number)

    # A setting of unknown type.
    if kind is type(None):
        return _element(plain)
    if kind not in _SHOWN:
        return plain
    raise UserError(f"{name}={text}: write {_SHOWN[kind]}")


def override(config, words: list[str]) -> None:
    """Sets the settings of a ConfigDict that a command line gives.

    The words `--config.KEY=VALUE`, `--config.KEY` and `--noconfig.KEY` are read, others
    are ignored. If a setting is given several times, the last value counts. Raises
    `UserError` for an unknown setting, and for a value of the wrong type.
    """
    for word in words:
        if not is_setting(word):
            continue
        name, equals, written = word.partition("=")
        # `--config.KEY` has no text; `--config.KEY=` has the text "".
        text = None
        if equals:
            text = written
        _set(config, key=key(word), text=text, switched_off=name.startswith(_OFF))


def is_known(config, word: str) -> bool:
    """Whether the setting of a word of the command line is one of the config's."""
    *groups, last = key(word).split(".")
    for group in groups:
        # A group is a ConfigDict, which has `get_type`; a single setting does not.
        if group not in config or not hasattr(config[group], "get_type"):
            return False
        config = config[group]
    return last in config


def is_setting(word: str) -> bool:
    """Whether a word of the command line sets a setting of the config."""
    return word.startswith((PREFIX, _OFF))


def key(word: str) -> str:
    """The name of the setting that a word is about, such as `optimizer.momentum`."""
    name = word.partition("=")[0]
    # --noconfig.KEY is False.
    return name.removeprefix(_OFF).removeprefix(PREFIX)


def _set(config, key: str, text: str | None, switched_off: bool) -> None:
    """Sets the setting `key`, such as `optimizer.momentum`.

    text: the value as written; None for a switch without a value.
    switched_off: whether the word is `--noconfig.KEY`.
    """
    # Find the group that contains the setting.
    *groups, last = key.split(".")
    path = "config"
    for group in groups:
        _check_known(config, group, path)
        path, config = f"{path}.{group}", config[group]
        if not isinstance(config, Mapping) and not hasattr(config, "get_type"):
            raise UserError(
                f"--{path} is one setting, there is no {last} in it; write "
                f"--{path}=VALUE"
            )

    # Find the setting, which must not be a group.
    _check_known(config, last, path)
    path, kind = f"{path}.{last}", config.get_type(last)
    if hasattr(config[last], "get_type"):
        known = ", ".join(sorted(config[last].keys()))
        raise UserError(
            f"--{path} holds settings; write --{path}.KEY=VALUE with one of {known}"
        )

    # Read its value.
    if text is None and kind is not bool:
        raise UserError(f"--{path} is not a switch; write --{path}=VALUE")
    if text is not None and switched_off:
        raise UserError(f"--no{path} takes no value; write --{path}=False")
    value = not switched_off
    if text is not None:
        value = read(text, kind=kind, name=f"--{path}")
    config[last] = value


def _check_known(config, name: str, path: str) -> None:
    """Raises `UserError`, with the known names, for a name that is not in the config.

    path: the path of this group, such as "config.optimizer".
    """
    if name in config:
        return
    # The advice is a similar name, or all names.
    known = sorted(config.keys())
    close = difflib.get_close_matches(name.replace("-", "_"), known, n=1)
    advice = f"known there: {', '.join(known)}"
    if close:
        advice = f"did you mean --{path}.{close[0]}?"
    raise UserError(f"unknown setting --{path}.{name}; {advice}")


def _list(text: str, name: str) -> tuple:
    """The numbers and words of a comma-separated text, with or without brackets."""
    # Remove the outer brackets; inner ones are refused.
    inside = text
    if text[:1] + text[-1:] in ("()", "[]"):
        inside = text[1:-1]
    if re.search(r"[()\[\]{}]", inside):
        raise UserError(
            f"{name}={text}: write the list as a,b,c or '(a, b, c)', with nothing "
            "nested in it"
        )

    # Like a tuple of one element, the text may end in a comma.
    parts = [part.strip() for part in inside.split(",")]
    if parts[-1] == "":
        parts.pop()
    if "" in parts:
        raise UserError(
            f"{name}={text}: nothing stands between two commas; write the list as "
            "a,b,c or '(a, b, c)'"
        )
    return tuple(_element(part) for part in parts)


def _element(text: str) -> int | float | str:
    """The number that the text is, or else the text without quotes."""
    number = _number(text)
    if number is None:
        return _unquoted(text)
    return number


def _number(text: str) -> int | float | None:
    """The number that a text stands for; None for other texts.

    Every spelling of an integer (64, 64.0, 6.4e1) gives an int, other numbers a float.
    """
    try:
        number = float(text)
    except ValueError:
        return None
    # Infinity and NaN are not integers, and `read` refuses finite integers this large.
    if abs(number) >= _TOO_LARGE or math.isnan(number):
        return number

    # Read from the text, because a float rounds integers beyond 2**53.
    if re.fullmatch(r"[+-]?[\d_]+", text):
        return int(text)
    if number.is_integer():
        return int(number)
    return number


def _unquoted(text: str) -> str:
    """The text without quotes around all of it."""
    quoted = _QUOTED.fullmatch(text)
    if quoted is None:
        return text
    return quoted[2]
