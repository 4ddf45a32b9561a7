"""The exception for a user's mistakes."""


class UserError(Exception):
    """One line that names the fault, with its value or file, and the remedy.

    The commands print it to standard error without a traceback, and exit with status 1.
    """
