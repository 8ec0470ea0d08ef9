"""How options and settings are written on the command line, see docs/usage.md.

From text to a value of a setting's type.
"""

import difflib
import math
import re
from collections.abc import Mapping
from typing import Any

from bnas_jax.core.errors import UserError

PREFIX = "--config."
# The prefix of a switch that is turned off.
_OFF = "--noconfig."
# How True and False may be written, in any case.
_SWITCHES = {
    **dict.fromkeys(("true", "t", "yes", "y", "on", "1"), True),
    **dict.fromkeys(("false", "f", "no", "n", "off", "0"), False),
}
# How a value of each type is written, for errors.
_SHOWN = {
    int: "a whole number: 64 or 1e2",
    float: "a number: 0.1 or 1e-3",
    bool: "True or False",
}
# Larger than any size, step or seed.
_TOO_LARGE = 1e18
_QUOTED = re.compile(r"(['\"])(.*)\1", re.DOTALL)


def options(words: list[str]) -> list[str]:
    """The words of a command line with each option as `--name=value` or `--name`.

    `-name` becomes `--name`. A word that is no option becomes the value of the option
    before it, if that has none.
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
    """A text as a value of a type, for the option or setting `name`.

    `None` is None in every type. Raises `UserError` for a text that is no such value.

    kind: int, float, bool, tuple or str, or NoneType where the type is not known.
    """
    # A shell may have left quotes around it.
    plain = _unquoted(text.strip())
    if plain == "None" or (kind is not str and plain.lower() in ("none", "null")):
        return None

    # Lists and switches.
    if kind is tuple:
        return _list(plain, name)
    if kind is bool and plain.lower() in _SWITCHES:
        return _SWITCHES[plain.lower()]

    # Numbers. An int may be written as a float, such as 1e5; a float must not be taken
    # for an int.
    if kind in (int, float):
        number = _number(plain)
        if kind is int and number is not None and _TOO_LARGE <= abs(number) < math.inf:
            raise UserError(
                f"{name}={text} is too large; write a whole number below "
                f"{_TOO_LARGE:.0e}"
            )
        if number is not None and (kind is float or isinstance(number, int)):
            return kind(number)

    # A setting whose config does not say its type.
    if kind is type(None):
        return _element(plain)
    if kind not in _SHOWN:
        return plain
    raise UserError(f"{name}={text}: write {_SHOWN[kind]}")


def override(config, words: list[str]) -> None:
    """Sets settings of a ConfigDict as the words of a command line say.

    They are `--config.KEY=VALUE`, `--config.KEY` and `--noconfig.KEY`; the last one of
    a setting counts. Raises `UserError` for a setting that is not there, and for a
    value of another type.
    """
    for word in words:
        if not is_setting(word):
            continue
        name, equals, written = word.partition("=")
        # `--config.KEY` has no text, `--config.KEY=` an empty one.
        text = None
        if equals:
            text = written
        key = name.removeprefix(_OFF).removeprefix(PREFIX)
        _set(config, key=key, text=text, switched_off=name.startswith(_OFF))


def is_known(config, word: str) -> bool:
    """Whether the setting of a word of the command line is one of the config's."""
    name = word.partition("=")[0]
    *groups, last = name.removeprefix(_OFF).removeprefix(PREFIX).split(".")
    for group in groups:
        # A ConfigDict has `get_type`; a single setting has not.
        if group not in config or not hasattr(config[group], "get_type"):
            return False
        config = config[group]
    return last in config


def is_setting(word: str) -> bool:
    """Whether a word of the command line is about a setting of the config."""
    return word.startswith((PREFIX, _OFF))


def _set(config, key: str, text: str | None, switched_off: bool) -> None:
    """Sets the setting `key`, such as `optimizer.momentum`.

    text: the value as it is written, None for a switch without one.
    switched_off: whether it was written as `--noconfig.KEY`.
    """
    # Down to the group that the setting is in.
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

    # The setting, which must not be a group.
    _check_known(config, last, path)
    path, kind = f"{path}.{last}", config.get_type(last)
    if hasattr(config[last], "get_type"):
        known = ", ".join(sorted(config[last].keys()))
        raise UserError(
            f"--{path} holds settings; write --{path}.KEY=VALUE with one of {known}"
        )

    # Its value.
    if text is None and kind is not bool:
        raise UserError(f"--{path} is not a switch; write --{path}=VALUE")
    if text is not None and switched_off:
        raise UserError(f"--no{path} takes no value; write --{path}=False")
    value = not switched_off
    if text is not None:
        value = read(text, kind=kind, name=f"--{path}")
    config[last] = value


def _check_known(config, name: str, path: str) -> None:
    """Raises `UserError` for a name that is not in a config, with the names that are.

    path: of the config, from `config` on.
    """
    if name in config:
        return
    # A similar name, or all of them.
    known = sorted(config.keys())
    close = difflib.get_close_matches(name.replace("-", "_"), known, n=1)
    advice = f"known there: {', '.join(known)}"
    if close:
        advice = f"did you mean --{path}.{close[0]}?"
    raise UserError(f"unknown setting --{path}.{name}; {advice}")


def _list(text: str, name: str) -> tuple:
    """Numbers and words between commas, with brackets around them or without."""
    # Without the brackets; there are no others.
    inside = text
    if text[:1] + text[-1:] in ("()", "[]"):
        inside = text[1:-1]
    if re.search(r"[()\[\]{}]", inside):
        raise UserError(
            f"{name}={text}: write the list as a,b,c or '(a, b, c)', with nothing "
            "nested in it"
        )

    # A comma at the end, as of a tuple of one, is followed by nothing.
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
    """A number where the text is one, else the text."""
    number = _number(text)
    if number is None:
        return _unquoted(text)
    return number


def _number(text: str) -> int | float | None:
    """The number of a text; None where it is no number.

    It is an int where the text is an integer, however written (64, 64.0, 6.4e1), else a
    float.
    """
    try:
        number = float(text)
    except ValueError:
        return None
    # Infinity and NaN are no integers; `read` refuses other integers of that size.
    if abs(number) >= _TOO_LARGE or math.isnan(number):
        return number

    # Not from the float, which rounds integers beyond 2**53.
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
