"""The one exception for what a user can mend."""


class UserError(ValueError):
    """Says in one line what is wrong and what to write instead.

    The command line prints it without a traceback and exits with 2.
    """
