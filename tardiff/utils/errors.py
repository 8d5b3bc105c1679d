"""The one exception that speaks to the user."""


class UserError(Exception):
    """A fault in what the user supplied: the message names the file, key or row, what was expected and what to do.

    Entry points print the message without a traceback and exit with code 2.
    """
