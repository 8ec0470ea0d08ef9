"""How options and settings are written on the command line, see docs/usage.md: words become values of a setting's type."""

import difflib
import math
import re
from collections.abc import Mapping
from typing import Any

from bnas_jax.core.errors import UserError

PREFIX = "--config."
_SWITCHES = {
    **dict.fromkeys(("true", "t", "yes", "y", "on", "1"), True),
    **dict.fromkeys(("false", "f", "no", "n", "off", "0"), False),
}
# How a value of each type is written, for errors.
_SHOWN = {int: "a whole number: 64 or 1e2", float: "a number: 0.1 or 1e-3", bool: "True or False"}
# No size, step or seed is as large.
_TOO_LARGE = 1e18
_QUOTED = re.compile(r"(['\"])(.*)\1", re.DOTALL)


def options(words: list[str]) -> list[str]:
    """The words of a command line with each option as `--name=value` or `--name`.

    `-name` is `--name`, and behind an option without a value, a word that is no option is its value.
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
    """The value of a text for the option or setting `name`, of type int, float, bool, tuple or str; `UserError` for another.

    `None` is None in every type.
    """
    plain = _unquoted(text.strip())
    if plain == "None" or (kind is not str and plain.lower() in ("none", "null")):
        return None
    if kind is tuple:
        return _list(plain, name)
    if kind is bool and plain.lower() in _SWITCHES:
        return _SWITCHES[plain.lower()]
    if kind in (int, float):
        number = _number(plain)
        if kind is int and number is not None and _TOO_LARGE <= abs(number) < math.inf:
            raise UserError(
                f"{name}={text} is too large; write a whole number below {_TOO_LARGE:.0e}"
            )
        if number is not None and (kind is float or isinstance(number, int)):
            return kind(number)
    if kind is type(None):  # of a setting whose config does not say
        return _element(plain)
    if kind not in _SHOWN:
        return plain
    raise UserError(f"{name}={text}: write {_SHOWN[kind]}")


def override(config, words: list[str]) -> None:
    """Sets in a ConfigDict what `--config.KEY=VALUE`, `--config.KEY` and `--noconfig.KEY` say, the last of several.

    `UserError` for a setting that is not there, and for a value of another type.
    """
    for word in words:
        switched_off = word.startswith("--no" + PREFIX[2:])
        if not is_setting(word):
            continue
        name, equals, text = word.partition("=")
        key = name.removeprefix("--no" + PREFIX[2:]).removeprefix(PREFIX)
        _set(config, key, text if equals else None, switched_off)


def is_setting(word: str) -> bool:
    """Whether a word of the command line is about a setting of the config."""
    return word.startswith((PREFIX, "--no" + PREFIX[2:]))


def _set(config, key: str, text: str | None, switched_off: bool) -> None:
    *groups, last = key.split(".")
    path = "config"
    for group in groups:
        _check_known(config, group, path)
        path, config = f"{path}.{group}", config[group]
        if not isinstance(config, Mapping) and not hasattr(config, "get_type"):
            raise UserError(
                f"--{path} is one setting, there is no {last} in it; write --{path}=VALUE"
            )
    _check_known(config, last, path)
    path, kind = f"{path}.{last}", config.get_type(last)
    if hasattr(config[last], "get_type"):
        known = ", ".join(sorted(config[last].keys()))
        raise UserError(f"--{path} holds settings; write --{path}.KEY=VALUE with one of {known}")
    if text is None and kind is not bool:
        raise UserError(f"--{path} is no switch; write --{path}=VALUE")
    if text is not None and switched_off:
        raise UserError(f"--no{path} takes no value; write --{path}=False")
    value = not switched_off
    if text is not None:
        value = read(text, kind, f"--{path}")
    config[last] = value


def _check_known(config, name: str, path: str) -> None:
    if name in config:
        return
    known = sorted(config.keys())
    close = difflib.get_close_matches(name.replace("-", "_"), known, 1)
    advice = f"known there: {', '.join(known)}"
    if close:
        advice = f"did you mean --{path}.{close[0]}?"
    raise UserError(f"unknown setting --{path}.{name}; {advice}")


def _list(text: str, name: str) -> tuple:
    """Numbers and words between commas, with brackets around them or without."""
    inside = text
    if text[:1] + text[-1:] in ("()", "[]"):
        inside = text[1:-1]
    if re.search(r"[()\[\]{}]", inside):
        raise UserError(
            f"{name}={text}: write the list as a,b,c or '(a, b, c)', with nothing nested in it"
        )
    parts = [part.strip() for part in inside.split(",")]
    if parts[-1] == "":  # behind a comma at the end, as of a tuple of one
        parts.pop()
    if "" in parts:
        raise UserError(
            f"{name}={text}: nothing stands between two commas; write the list as a,b,c or '(a, b, c)'"
        )
    return tuple(_element(part) for part in parts)


def _element(text: str) -> int | float | str:
    number = _number(text)
    return _unquoted(text) if number is None else number


def _number(text: str) -> int | float | None:
    """An int where the text is a whole number, however written: 64, 64.0, 6.4e1."""
    try:
        number = float(text)
    except ValueError:
        return None
    if abs(number) >= _TOO_LARGE or math.isnan(number):
        return number
    if re.fullmatch(r"[+-]?[\d_]+", text):
        return int(text)
    if number.is_integer():
        return int(number)
    return number


def _unquoted(text: str) -> str:
    quoted = _QUOTED.fullmatch(text)
    return quoted[2] if quoted else text
