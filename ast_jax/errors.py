"""The one exception for a user's mistake: a single clear line, never a traceback."""


class UserError(Exception):
    """What was wrong, with the value or the file, and what to do, in one line.

    The entry points print it to standard error and exit with status 1.
    """
