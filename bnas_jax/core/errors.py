"""The one exception for mistakes that a user can mend, and the text of the others."""


class UserError(ValueError):
    """Says in one line what is wrong and what to write instead.

    The command line prints it without a traceback and exits with 2.
    """


class PassingError(UserError):
    """Has ended a run, and may not be there any more when the run is started again.

    The command line exits with 75, by which a launcher starts the run again
    (EX_TEMPFAIL of sysexits.h).
    """

    exit_code = 75


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or the name of its type if it has no text."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0]
