"""The one error that is the user's to mend."""


class InputError(ValueError):
    """Something the user gave can't be used.

    The message names the value, what would be accepted and what to do next. Commands print it
    without a traceback and leave with exit status 2.
    """
