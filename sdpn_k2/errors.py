"""The one exception that means "what was given cannot be used"."""


class InputError(Exception):
    """Bad input: the message is one line that says what is wrong, where, and what to do.

    Command-line tools print the message without a traceback and exit with status 1.
    """
