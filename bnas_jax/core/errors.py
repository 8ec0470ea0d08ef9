"""`UserError`, for mistakes that the user can correct, and its kind `PassingError`."""

from typing import Any


class UserError(ValueError):
    """A mistake that the user can correct.

    Its text says in one line what is wrong and what to write instead. The command line
    prints it without a traceback and exits with 2.
    """


class PassingError(UserError):
    """An error whose cause may be gone when the run is started again.

    For instance, another host was lost. The command line exits with 75 (EX_TEMPFAIL of
    sysexits.h), and a launcher then starts the run again.
    """

    exit_code = 75


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or the name of its type if it has no text."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]


def shown(value: Any) -> str:
    """A value in a message of one line: its text, or its type if the text is long."""
    text = repr(value)
    if "\n" in text or len(text) > 80:
        return f"a {type(value).__name__}"
    return text
