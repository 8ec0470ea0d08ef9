"""Checks of settings: each raises a `UserError` that names the setting, what it may be and what it is."""

import math

from bnas_jax.core.errors import UserError


def require(condition, message: str) -> None:
    """`UserError` with the message unless the condition holds."""
    if not condition:
        raise UserError(message)


def choice(name: str, value, choices: tuple) -> None:
    """One of the choices."""
    require(
        value in choices, f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}"
    )


def positive(prefix: str, settings, *names: str) -> None:
    """Whole numbers from 1 on."""
    for name in names:
        require(
            getattr(settings, name) >= 1,
            f"{prefix}.{name} must be at least 1, got {getattr(settings, name)}",
        )


def rates(prefix: str, settings, *names: str, least: float | None = None) -> None:
    """Finite numbers above 0, or from `least` on."""
    for name in names:
        value = getattr(settings, name)
        fits = value > 0 if least is None else value >= least
        wanted = "greater than 0" if least is None else f"at least {least}"
        require(
            fits and math.isfinite(value),
            f"{prefix}.{name} must be a finite number {wanted}, got {value}",
        )


def shares(prefix: str, settings, *names: str) -> None:
    """Numbers from 0 to below 1."""
    for name in names:
        value = getattr(settings, name)
        require(0 <= value < 1, f"{prefix}.{name} must be from 0 to below 1, got {value}")


def clipping(prefix: str, settings) -> None:
    """A norm to clip gradients to, or None."""
    clip = settings.clip_norm
    require(
        clip is None or clip > 0, f"{prefix}.clip_norm must be greater than 0 or None, got {clip}"
    )
