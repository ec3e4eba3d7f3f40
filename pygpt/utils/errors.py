"""The one error that is the user's to mend, and what every room refuses with it."""


class InputError(ValueError):
    """Something the user gave can't be used.

    The message names the value, what would be accepted and what to do next. Commands print it
    without a traceback and leave with exit status 2.
    """


def check_seed(seed: int) -> None:
    """Raise InputError for a seed that is no unsigned 64-bit integer."""
    if not 0 <= seed < 2**64:
        raise InputError(f"seed must be in 0 to 2**64 - 1, got {seed}")
