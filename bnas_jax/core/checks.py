"""Checks of settings.

Each raises a `UserError` that names the setting, the values it may have and the one it
has.
"""

import math
from collections.abc import Iterable

import numpy as np

from bnas_jax.core.errors import UserError, shown


def require(condition, message: str) -> None:
    """Raises `UserError` with the message unless the condition is true."""
    if not condition:
        raise UserError(message)


def choice(name: str, value, choices: Iterable) -> None:
    """Raises `UserError` unless the value is one of the choices.

    choices: the values, or a table of them by name.
    """
    choices = tuple(choices)
    listed = ", ".join(map(str, choices))
    require(value in choices, f"{name} must be one of {listed}, got {value!r}")


def whole(name: str, value, *, least: int = 1) -> None:
    """Raises `UserError` unless the value is a whole number from `least` on."""
    is_whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    message = f"{name} must be a whole number, at least {least}, got {shown(value)}"
    require(is_whole and value >= least, message)


def positive(prefix: str, settings, *names: str) -> None:
    """Raises `UserError` for the first of these settings that is below 1.

    A setting is a number, or a tuple of numbers that must not be empty.

    prefix: of their names, such as config.network.
    """
    for name in names:
        value = getattr(settings, name)
        setting = f"{prefix}.{name}"
        if value == ():
            # The default shows a possible length.
            example = ",".join(map(str, getattr(type(settings), name)))
            raise UserError(
                f"{setting} is empty; write for instance its default, "
                f"--{setting}={example}"
            )
        # All numbers of a tuple must be that large.
        least = min(value) if isinstance(value, tuple) else value
        require(least >= 1, f"{setting} must be at least 1, got {value}")


def rates(prefix: str, settings, *names: str, least: float | None = None) -> None:
    """Raises `UserError` for the first setting that is no finite number in its range.

    The range is above 0, or from `least` on.

    prefix: of the names, such as config.weights.
    """
    for name in names:
        value = getattr(settings, name)
        if least is None:
            fits, wanted = value > 0, "greater than 0"
        else:
            fits, wanted = value >= least, f"at least {least}"
        # NaN and infinity train nothing. NaN also differs from itself, so that a run
        # could not go on.
        message = f"{prefix}.{name} must be a finite number {wanted}, got {value}"
        require(fits and math.isfinite(value), message)


def shares(prefix: str, settings, *names: str) -> None:
    """Raises `UserError` for the first setting that is not from 0 to below 1."""
    for name in names:
        value = getattr(settings, name)
        # 1 itself would drop everything, or never forget a momentum.
        message = f"{prefix}.{name} must be from 0 to below 1, got {value}"
        require(0 <= value < 1, message)


def clipping(prefix: str, settings) -> None:
    """Raises `UserError` for a `clip_norm` that is neither None nor above 0.

    Infinity is allowed, and does not clip.
    """
    clip = settings.clip_norm
    message = f"{prefix}.clip_norm must be greater than 0 or None, got {clip}"
    require(clip is None or clip > 0, message)
